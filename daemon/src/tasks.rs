//! Tasks that are to run as long as the process: the end of one that nobody asked for is a fault with a name.

use std::future::Future;

use anyhow::{Error, Result, anyhow};
use tokio::task::JoinSet;

/// Tasks with names. Dropping this ends them all.
#[derive(Debug, Default)]
pub struct Tasks(JoinSet<(&'static str, Result<()>)>);

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts one.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<()>> + Send + 'static) {
        self.0.spawn(async move { (name, task.await) });
    }

    /// Waits for the end of any, which is a fault. Waits for ever while there are none.
    pub async fn fault(&mut self) -> Error {
        match self.0.join_next().await {
            Some(Ok((task, Ok(())))) => anyhow!("the task `{task}` ended by itself"),
            Some(Ok((task, Err(error)))) => error.context(format!("the task `{task}` failed")),
            Some(Err(error)) => anyhow!("a task broke off: {error}"),
            None => std::future::pending().await,
        }
    }

    /// Ends all, and waits until they have.
    pub async fn shut_down(mut self) {
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_a_fault_with_a_name() {
        let mut tasks = Tasks::new();
        tasks.spawn("beating", std::future::pending());
        tasks.spawn("reading", async { Err(anyhow!("no more input")) });
        assert_eq!(format!("{:#}", tasks.fault().await), "the task `reading` failed: no more input");
        tasks.spawn("looking", async { Ok(()) });
        assert_eq!(tasks.fault().await.to_string(), "the task `looking` ended by itself");
        tasks.spawn("falling", async { panic!("on purpose") });
        assert!(tasks.fault().await.to_string().contains("broke off"));
        tasks.shut_down().await;
    }
}
