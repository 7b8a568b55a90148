//! An operator's words on the authority of the endpoint's certificate: another one is made, devices are told of it, and
//! then it is used.

use super::{ANSWER, CommandError, Config, print};
use crate::gateway::devices::Authority;
use crate::gateway::error::ServeError;
use crate::gateway::opening::open;
use crate::gateway::store::{Store, StoreError};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum AuthorityCommand {
    /// Make the authority that is to follow; devices are told of it when they come, and trust both
    #[command(
        after_help = "For an endpoint without a certificate of yours. Reload the gateway (SIGHUP) afterwards, each of those that share the store; look at `authority show` until the devices have been there, then `authority switch`."
    )]
    Renew,
    /// Whether one is to follow, and how many devices have not been told
    Show,
    /// Use the authority that is to follow, with the gateway's next start
    Switch {
        /// Also when there are devices that have not been told: they are cut off until they trust the new ca.pem
        #[arg(long)]
        anyway: bool,
    },
}

pub(super) async fn execute(config: &Config, command: AuthorityCommand) -> Result<(), CommandError> {
    if config.broker.certificate.is_some() || config.broker.url.is_some() {
        let why = "the endpoint's certificate is not of the gateway's own authority (broker.certificate, broker.url)";
        return Err(CommandError::Refused(why.to_owned()));
    }
    let mut away = String::new();
    let opened = tokio::time::timeout(ANSWER, open(config, |error| away = error.to_string())).await;
    let store = opened.map_err(|_| CommandError::Refused(away))??;
    match command {
        AuthorityCommand::Renew => {
            Authority::renew(&store).await.map_err(ServeError::from)?;
            print("an authority is to follow; reload the gateway, and devices are told of it as they come")
        }
        AuthorityCommand::Show => print(&said(&store).await.map_err(ServeError::from)?.1),
        AuthorityCommand::Switch { anyway } => {
            let (ready, why) = said(&store).await.map_err(ServeError::from)?;
            if !ready && !anyway {
                return Err(CommandError::Refused(why));
            }
            match Authority::switch(&store).await.map_err(ServeError::from)? {
                true => print(
                    "restart the gateway, and each that shares the store: its certificate is of the new authority then, and ca.pem is another",
                ),
                false => Err(CommandError::Refused(why)),
            }
        }
    }
}

/// Whether every device has been told, and a sentence.
async fn said(store: &Store) -> Result<(bool, String), StoreError> {
    Ok(match Authority::coming(store).await? {
        None => (false, "no authority is to follow: impush-gateway authority renew".to_owned()),
        Some((_, None)) => (false, "an authority is to follow; the gateway has not been reloaded since".to_owned()),
        Some((_, Some(since_ms))) => {
            let (absent, all) = store.absent_since(since_ms).await?;
            (
                absent == 0,
                format!(
                    "{} of {all} devices have been told of the authority that is to follow; {absent} have not been here since (agents older than this gateway do not listen)",
                    all - absent
                ),
            )
        }
    })
}
