//! `rules verify`: the whole store against itself.

use serde::Serialize;

use super::{SCHEMA_VERSION, open};
use crate::cli::{Error, Global, output};
use crate::store::RulesVerified;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct VerifyOutput {
    schema_version: u32,
    ok: bool,
    #[serde(flatten)]
    verified: RulesVerified,
}

/// Verifies the store and shows the result.
pub(super) fn run(global: &Global, args: &Args) -> Result<(), Error> {
    let (setup, store) = open(global)?;
    let verified = store.verify_rules()?;
    let failed = verified.problems.len();
    if args.json {
        setup.print_json(&VerifyOutput {
            schema_version: SCHEMA_VERSION,
            ok: failed == 0,
            verified,
        });
    } else {
        let counts = &verified.counts;
        output::line(format_args!("rules       {}", verified.rules));
        output::line(format_args!(
            "by type     {} binary, {} certificate, {} teamid, {} signingid, {} cdhash",
            counts.binary, counts.certificate, counts.teamid, counts.signingid, counts.cdhash
        ));
        output::line(format_args!(
            "of them     {} compiler, {} transitive",
            counts.compiler, counts.transitive
        ));
        output::line(format_args!("hash        {}", verified.rules_hash));
        if verified.changed_by_others {
            output::line("note        another program has changed the rules since the last sync");
        }
        for problem in &verified.problems {
            output::line(format_args!("problem     {problem}"));
        }
        if failed == 0 {
            output::line("the rule store is consistent");
        }
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Error::unusable("the rule store is damaged")
        .with_fix("`santa-sync sync --clean-all` downloads every rule again"))
}
