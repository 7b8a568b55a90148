//! The programs' man pages and shell completions, written from their own command lines.

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use std::io;
use std::path::Path;

const SHELLS: [(Shell, &str); 3] = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

/// Writes `man/` and `completions/{bash,zsh,fish}/` into `directory`.
///
/// # Errors
/// The disk's error.
pub(super) fn write(directory: &Path, lab: Command) -> io::Result<()> {
    let programs: [(&str, Command); 3] = [
        ("impush", crate::agent::cli::Cli::command()),
        ("impush-gateway", crate::gateway::cli::Cli::command()),
        ("impush-lab", lab),
    ];
    let man = directory.join("man");
    std::fs::create_dir_all(&man)?;
    for (name, command) in programs {
        // One page a subcommand too, as git and systemd do.
        clap_mangen::generate_to(command.clone(), &man)?;
        for (shell, place) in SHELLS {
            let into = directory.join("completions").join(place);
            std::fs::create_dir_all(&into)?;
            generate_to(shell, &mut command.clone(), name, &into)?;
        }
    }
    Ok(())
}
