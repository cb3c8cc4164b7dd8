//! `wireloom keygen` and `wireloom pubkey`, as `wg genkey` and `wg pubkey` do it.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use wireloom_model::PrivateKey;
use zeroize::Zeroizing;

use crate::output;

pub(crate) fn keygen() -> anyhow::Result<ExitCode> {
    output::line(&PrivateKey::from_random(random_bytes()?).to_text())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn pubkey() -> anyhow::Result<ExitCode> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .context("read the private key from standard input")?;
    let key: PrivateKey = text.trim().parse().context("standard input")?;
    output::line(&key.public_key().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// 32 bytes of the kernel's randomness.
pub(crate) fn random_bytes() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("ask the kernel for random bytes")?;
    // getrandom(2) returns up to 256 bytes whole once the pool is ready.
    anyhow::ensure!(
        read == bytes.len(),
        "the kernel gave {read} random bytes instead of {}",
        bytes.len()
    );
    Ok(bytes)
}
