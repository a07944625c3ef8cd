//! All tools of this crate for one view, in one step.

use std::sync::Arc;

use crate::{
    CommandPlace, CommandPolicy, Error, Fetch, Hosts, HttpFetch, Limits, OutputStore, RunCommand, Runner, Toolbox,
    View, files, git,
};

/// What a process has for all its tools. Cheap to clone.
#[derive(Clone, Default)]
pub struct Kit {
    /// Runs commands; none without it.
    pub runner: Option<Runner>,
    /// Reads pages; none without it, as when a run is offline.
    pub fetch: Option<Arc<dyn Fetch>>,
    /// Limits of every call.
    pub limits: Limits,
}

/// What a role's tools may do, by their own rules.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What commands may be run, and within what.
    pub commands: Arc<CommandPolicy>,
    /// Which hosts may be read.
    pub hosts: Arc<Hosts>,
}

impl Kit {
    /// The toolbox of an attempt. Tools that could never be called under these rules are left out; what a policy denies is taken
    /// out with [`Toolbox::retain`].
    pub fn toolbox(&self, view: &View, outputs: &OutputStore, rules: &Rules) -> Result<Toolbox, Error> {
        let mut toolbox = Toolbox::new(outputs.clone(), self.limits)?;
        files::add_reading(&mut toolbox, view.tree())?;
        files::add_writing(&mut toolbox, view.tree(), &view.journal())?;
        git::add_reading(&mut toolbox, view)?;
        git::add_writing(&mut toolbox, view)?;
        if let Some(runner) = &self.runner
            && !(rules.commands.allow.is_empty() && rules.commands.ask.is_empty())
        {
            let place =
                CommandPlace { root: view.root().to_owned(), tree: view.tree().clone(), scratch: view.scratch() };
            toolbox.add(RunCommand::new(place, Arc::clone(&rules.commands), runner.clone(), outputs.clone()))?;
        }
        if let Some(fetch) = &self.fetch
            && !rules.hosts.is_empty()
        {
            toolbox.add(HttpFetch::new(Arc::clone(fetch), Arc::clone(&rules.hosts)))?;
        }
        Ok(toolbox)
    }
}
