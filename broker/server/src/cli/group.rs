//! `waspmq group`: groups and their members.

use super::api::Access;
use super::failure::Failure;
use super::output;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Make, show and change groups
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waspmq group create eng
  waspmq group add eng alice bob
  waspmq group show eng")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All groups
    List,
    /// The members of a group
    Show {
        /// The group's name, without `group/`
        group: String,
    },
    /// Make a group without members; one that exists stays as it is
    Create {
        /// The group's name, without `group/`
        group: String,
    },
    /// End all memberships of a group, and the group
    Rm {
        /// The group's name, without `group/`
        group: String,
    },
    /// Make users members, on all their sessions
    Add {
        /// The group's name, without `group/`
        group: String,
        /// The users' names, without `user/`
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// End memberships
    Remove {
        /// The group's name, without `group/`
        group: String,
        /// The users' names, without `user/`
        #[arg(required = true)]
        users: Vec<String>,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.access.open()?;
    let show = |document: &Value, headings: &[&str], rows: &[Vec<String>]| {
        if arguments.access.json {
            output::json(document)
        } else {
            output::line(format_args!("{}", output::table(headings, rows)))
        }
    };
    match &arguments.command {
        Command::List => {
            let groups = api.get_all(&["groups"], "groups")?;
            show(&groups, &["GROUP", "MEMBERS"], &output::rows(&groups, &["/group", "/member_count"]))?;
        }
        Command::Show { group } => {
            let members = api.get_all(&["groups", group, "members"], "members")?;
            let rows = output::rows(&members, &[""]);
            show(&json!({ "group": group, "members": members }), &["MEMBER"], &rows)?;
        }
        Command::Create { group } => {
            api.put(&["groups", group], None)?;
        }
        Command::Rm { group } => {
            api.delete(&["groups", group])?;
        }
        Command::Add { group, users } => {
            for user in users {
                api.put(&["groups", group, "members", user], None)?;
            }
        }
        Command::Remove { group, users } => {
            for user in users {
                api.delete(&["groups", group, "members", user])?;
            }
        }
    }
    Ok(())
}
