//! An image: layers, and what to run in them.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use crate::error::Error;
use crate::layer::{Layer, header};

/// When all of it was made: a build tells no time, so that another build is the same.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// An image that can be written as one archive.
///
/// Sources: OCI Image Format Specification 1.1, "Image Layout", "Image Manifest", "Image Configuration".
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    layers: Vec<Layer>,
    entrypoint: Vec<String>,
    labels: BTreeMap<String, String>,
}

impl Image {
    /// An empty image of this name and tag, such as `localhost/wireloom:dev`, for the architecture that we run on.
    pub fn new(reference: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            layers: Vec::new(),
            entrypoint: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// With a layer above those that it has.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// With what a container runs, and its first arguments.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// With a label, `org.opencontainers.image.title` for example.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Its name and tag.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Writes it as a tar archive of an OCI layout, which `ctr images import` and others take.
    ///
    /// # Errors
    ///
    /// A file that can't be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let archive = self.archive().map_err(Error::file(path))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::file(parent))?;
        }
        fs::write(path, archive).map_err(Error::file(path))
    }

    /// The same archive in memory.
    ///
    /// # Errors
    ///
    /// A path in a layer that is too long.
    pub fn archive(&self) -> io::Result<Vec<u8>> {
        let mut blobs = Blobs::default();
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| Ok(blobs.add("application/vnd.oci.image.layer.v1.tar", layer.archive()?)))
            .collect::<io::Result<_>>()?;
        // A layer that is not compressed is its own content.
        let contents: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "created": EPOCH,
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": contents },
        });
        let config = blobs.add("application/vnd.oci.image.config.v1+json", text(&config));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
            "annotations": self.labels,
        });
        let mut manifest = blobs.add(MANIFEST, text(&manifest));
        // containerd reads the whole name, others the tag.
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        blobs.layout(&text(&index))
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is found by its digest.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds one and returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let digest = hex::encode(Sha256::digest(&content));
        let descriptor = json!({
            "mediaType": media_type,
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        });
        self.0.insert(digest, content);
        descriptor
    }

    fn layout(&self, index: &[u8]) -> io::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        append(&mut archive, "oci-layout", &text(&json!({ "imageLayoutVersion": "1.0.0" })))?;
        append(&mut archive, "index.json", index)?;
        for directory in ["blobs/", "blobs/sha256/"] {
            let mut header = header(0, 0o755);
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, directory, io::empty())?;
        }
        for (digest, content) in &self.0 {
            append(&mut archive, &format!("blobs/sha256/{digest}"), content)?;
        }
        archive.into_inner()
    }
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, content: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(content.len() as u64, 0o644), path, content)
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// The name of our architecture as Go, and so OCI, has it.
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        let layer = |text| Layer::new().text("/etc/motd", text);
        Image::new("localhost/test:1")
            .layer(layer("below"))
            .layer(layer("above"))
            .entrypoint(&["/bin/sh", "-c"])
            .label("org.opencontainers.image.title", "test")
    }

    fn unpacked(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn every_descriptor_leads_to_what_it_describes() {
        let files = unpacked(&image().archive().unwrap());
        let blob = |descriptor: &Value| -> Vec<u8> {
            let digest = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:");
            let content = files[&format!("blobs/sha256/{digest}")].clone();
            assert_eq!(hex::encode(Sha256::digest(&content)), digest);
            assert_eq!(descriptor["size"], content.len());
            content
        };
        let json = |content: &[u8]| -> Value { serde_json::from_slice(content).unwrap() };
        let index = json(&files["index.json"]);
        let manifest = &index["manifests"][0];
        assert_eq!(manifest["annotations"]["io.containerd.image.name"], "localhost/test:1");
        assert_eq!(manifest["annotations"]["org.opencontainers.image.ref.name"], "1");
        let manifest = json(&blob(manifest));
        let config = json(&blob(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/sh", "-c"]));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "test");
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), layers.len());
        let contents: Vec<String> = layers
            .iter()
            .map(|layer| String::from_utf8(unpacked(&blob(layer))["etc/motd"].clone()).unwrap())
            .collect();
        assert_eq!(contents, ["below", "above"]);
    }

    #[test]
    fn two_builds_are_the_same() {
        assert_eq!(image().archive().unwrap(), image().archive().unwrap());
    }
}
