//! Taking back what the container runtime was told: by an agent that leaves, and by one that tells it something else.

use std::os::unix::net::UnixStream;
use std::path::Path;

use wireloom_cni::{
    Attachments, Bridge, Chain, ConflistFile, Directories, Guidance, Listed, PLUGIN, Programs,
    survey,
};
use wireloom_model::Problem;

use super::{BRIDGE, FILE, List, NETWORK, PROGRAMS, Pods, STATE, failure, warning};

/// What came of taking something away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It should be gone and is not, and why.
    Failed(String),
    /// It is left alone, and why.
    Kept(String),
    Removed,
}

/// What was taken away, or should have been, in words.
type Done = (String, Outcome);

impl Pods {
    /// Takes back what an agent before this one told the runtime, as far as this one does not say the same.
    pub(super) fn settle(&mut self) -> Vec<Problem> {
        let done = match self.list {
            List::Anothers => {
                let own = withdraw(&self.directory, None);
                own.into_iter().chain(remove_bridge()).collect()
            }
            List::Ours => {
                let own = withdraw(&self.directory, Some(self.file.path()));
                own.into_iter().chain(unchain(&mut self.chain)).collect()
            }
            List::Nobodys if !self.was_told() => Vec::new(),
            List::Nobodys => {
                let mut done = take_back_lists(&self.directory, &mut self.chain);
                if !self.serves_by_hand() {
                    done.extend(take_back_program(
                        &self.directory,
                        &self.programs,
                        &self.directories,
                    ));
                }
                done
            }
        };
        tell(done)
    }

    /// Takes back what the runtime was told. The program stays while a runtime may call it.
    pub(crate) fn leave(&mut self) -> Vec<Problem> {
        if self.list == List::Nobodys && !self.was_told() {
            return Vec::new();
        }
        let mut done = take_back_lists(&self.directory, &mut self.chain);
        done.extend(take_back_program(&self.directory, &self.programs, &self.directories));
        tell(done)
    }

    /// Whether somebody else has put ours into a list, and no other agent of this machine sees to it.
    pub(super) fn serves_by_hand(&self) -> bool {
        let is_called = |listed: Vec<_>| listed.iter().any(Listed::has_ours);
        !self.is_of_another_agent() && survey(&self.directory).is_ok_and(is_called)
    }

    /// Whether the runtime was told anything by an agent before this one.
    fn was_told(&self) -> bool {
        let is_own = |listed: Vec<Listed>| listed.iter().any(is_ours);
        let has_said = !matches!(Guidance::read(&self.directories.state), Ok(None));
        !self.is_of_another_agent()
            && (has_said || self.chain.is_in_lists() || survey(&self.directory).is_ok_and(is_own))
    }

    /// Whether another agent of this machine tells the runtime, or one of another machine that sees the same files.
    fn is_of_another_agent(&self) -> bool {
        let said = Guidance::read(&self.directories.state).ok().flatten();
        said.is_some_and(|said| {
            let is_other = said.agent != self.agent;
            said.key != self.key || (is_other && UnixStream::connect(&said.agent).is_ok())
        })
    }
}

/// What an agent that did not end by itself left of it in the usual places, in words, each with what came of taking it
/// away.
pub(crate) fn clean_up(run: &Path) -> Vec<Done> {
    let directory = Path::new(FILE).parent().unwrap_or_else(|| Path::new("/"));
    let directories = Directories { run: run.to_owned(), state: STATE.into() };
    let mut chain = Chain::new(directory.to_owned(), directories.clone());
    let mut done = take_back_lists(directory, &mut chain);
    done.extend(take_back_program(directory, &Programs::new(PROGRAMS.into()), &directories));
    done
}

/// Takes our lists away, and ours out of others', and the bridge if no pod hangs on it.
fn take_back_lists(directory: &Path, chain: &mut Chain) -> Vec<Done> {
    let own = withdraw(directory, None);
    own.into_iter().chain(unchain(chain)).chain(remove_bridge()).collect()
}

/// Takes away the program that lists call, and what that goes by, unless it may be called yet.
fn take_back_program(
    directory: &Path,
    programs: &Programs,
    directories: &Directories,
) -> Vec<Done> {
    let mut done = Vec::new();
    match callers(directory, directories) {
        None => {
            if programs.has(PLUGIN) {
                done.push((plugin(programs), outcome(programs.remove())));
            }
            if !matches!(Guidance::read(&directories.state), Ok(None)) {
                let what = format!("the plugin's guidance in {}", directories.state.display());
                done.push((what, outcome(Guidance::remove(&directories.state))));
            }
        }
        Some(why) if programs.has(PLUGIN) => done.push((plugin(programs), Outcome::Kept(why))),
        Some(_) => {}
    }
    done
}

fn remove_bridge() -> Option<Done> {
    match Bridge::new(BRIDGE.to_owned()).remove() {
        Ok(false) => None,
        removed => Some((format!("the bridge {BRIDGE}"), outcome(removed))),
    }
}

/// Why a runtime may call the program yet. A runtime that remembers by which list it started a pod ends it by the same.
fn callers(directory: &Path, directories: &Directories) -> Option<String> {
    match survey(directory) {
        Ok(listed) => {
            if let Some(list) = listed.iter().find(|list| list.has_ours()) {
                return Some(format!("{} names it", list.path.display()));
            }
        }
        Err(error) => return Some(format!("{}: {error}", directory.display())),
    }
    match Attachments::of(&directories.run).living() {
        Ok(records) if records.pods.is_empty() => None,
        Ok(records) => Some(format!(
            "it was called for {} of the pods that run; delete them, then say `wireloom cleanup`",
            records.pods.len()
        )),
        Err(error) => Some(format!("{}: {error}", directories.run.display())),
    }
}

/// Takes our own lists out of a directory, but for one.
fn withdraw(directory: &Path, but: Option<&Path>) -> Vec<Done> {
    let listed = match survey(directory) {
        Ok(listed) => listed,
        Err(error) => return vec![(shown(directory), Outcome::Failed(error.to_string()))],
    };
    let own = listed.into_iter().filter(|listed| is_ours(listed) && Some(&*listed.path) != but);
    own.map(|listed| {
        let what = shown(&listed.path);
        (what, outcome(ConflistFile::new(listed.path).withdraw(NETWORK)))
    })
    .collect()
}

/// Takes ours out of the lists of others.
fn unchain(chain: &mut Chain) -> Vec<Done> {
    let left = chain.leave().into_iter();
    left.map(|(list, left)| (format!("ours in {}", shown(&list)), outcome(left))).collect()
}

fn is_ours(listed: &Listed) -> bool {
    listed.network.as_deref() == Some(NETWORK)
}

fn shown(list: &Path) -> String {
    format!("the list {}", list.display())
}

fn plugin(programs: &Programs) -> String {
    format!("the plugin {}", programs.directory().join(PLUGIN).display())
}

fn outcome<T, E: ToString>(result: Result<T, E>) -> Outcome {
    result.map_or_else(|error| Outcome::Failed(error.to_string()), |_| Outcome::Removed)
}

/// Logs what is gone, and returns what is not.
fn tell(done: Vec<Done>) -> Vec<Problem> {
    let problem = |(what, outcome)| match outcome {
        Outcome::Removed => {
            tracing::info!("{what} is taken away");
            None
        }
        Outcome::Kept(why) => Some(warning(format!("{what} stays: {why}"))),
        Outcome::Failed(why) => Some(failure(format!("{what} can't be taken away: {why}"))),
    };
    done.into_iter().filter_map(problem).collect()
}
