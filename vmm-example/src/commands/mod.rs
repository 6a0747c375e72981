//! The commands, one file each.

mod answer;
mod bench;
mod boat;
mod check_state;
mod control;
mod discard;
mod doctor;
pub(crate) mod interrupt;
mod keeper;
mod live_update;
mod lost;
mod manual;
mod member;
mod open_files;
mod progress;
mod report_file;
mod resume;
mod run;
mod serve;
mod signal;
mod status;
mod table;

use vmm_fdbox::update::ExitStatus;

use crate::cli::Command;
use crate::devices::console::guard;
use crate::service::api::protocol::Request;

/// Carries out a command.
pub(crate) fn execute(command: Command) -> anyhow::Result<ExitStatus> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::LiveUpdate(args) => live_update::live_update(args),
        Command::Resume(args) => resume::resume(&args),
        Command::Boat(args) => boat::boat(&args),
        Command::Keeper(args) => keeper::keeper(&args),
        Command::Member(args) => member::member(&args),
        Command::CheckState(args) => check_state::check_state(&args),
        Command::Status(args) => status::status(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Discard(args) => discard::discard(&args),
        Command::Cancel(args) => control::ask(&args, &Request::Cancel {}),
        Command::Pause(args) => control::ask(&args, &Request::Pause {}),
        Command::Continue(args) => control::ask(&args, &Request::Continue {}),
        Command::Shutdown(args) => control::ask(&args.api, &Request::Shutdown(args.request())),
        Command::Events(args) => control::events(&args),
        Command::Metrics(args) => control::metrics(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::GuardTerminal { modes } => guard::guard(&modes).map(|()| ExitStatus::Done),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}
