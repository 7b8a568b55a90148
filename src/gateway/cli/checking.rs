//! `impush-gateway check`: could it start, and are its vendors reached?

use super::super::check::{obstacles, service_account};
use super::super::config::{Config, SYSTEM_FILE};
use super::super::vendor_hosts::tried;
use super::{CommandError, print};
use crate::access::Account;
use std::path::Path;

/// # Errors
/// [`CommandError::CannotStart`] with what stands in the way.
pub(super) fn execute(file: Option<&Path>, config: &Config, as_user: Option<&str>) -> Result<(), CommandError> {
    let account = match as_user {
        Some(name) => Some(Account::named(name).map_err(CommandError::User)?),
        None => service_account(),
    };
    let system = Path::new(SYSTEM_FILE);
    let file = file.or_else(|| system.exists().then_some(system));
    let found = obstacles(file, config, account.as_ref()).map_err(CommandError::User)?;
    if found.is_empty() { print("configuration is good") } else { Err(CommandError::CannotStart(found)) }
}

/// Prints a line for each vendor's host.
///
/// # Errors
/// [`CommandError::NotReached`] with those that do not answer.
pub(super) async fn vendors(config: &Config) -> Result<(), CommandError> {
    let all = tried(&config.vendors).await.map_err(|why| CommandError::CannotStart(vec![why]))?;
    for host in all.iter().filter(|host| host.answer.is_ok()) {
        print(&host.line())?;
    }
    let lost: Vec<String> = all.iter().filter(|host| host.answer.is_err()).map(|host| host.line()).collect();
    if lost.is_empty() { Ok(()) } else { Err(CommandError::NotReached(lost)) }
}
