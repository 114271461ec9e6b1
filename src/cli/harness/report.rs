//! `harness report`: shows reports of simulations, and merges those of shards.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::simulate::{create, write};
use crate::cli::{Error, output};
use crate::files;
use crate::harness::SimulationReport;
use crate::model::text;

/// The largest report file that is read, in bytes.
const MAX_REPORT_BYTES: u64 = 256 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Reports that `harness simulate --save` wrote: one, or those of the shards of one simulation
    #[arg(value_name = "FILE", required = true)]
    reports: Vec<PathBuf>,
    /// Print the report as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    files: ReportFiles,
}

/// Where a report is written besides standard output.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReportFiles {
    /// Write the report as a self-contained HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the report as JSON, which `harness report` reads
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

impl ReportFiles {
    /// Creates the files.
    pub(super) fn create(&self) -> Result<CreatedFiles, Error> {
        let made = |path: &Option<PathBuf>| path.as_deref().map(create).transpose();
        Ok(CreatedFiles { html: made(&self.html)?, save: made(&self.save)? })
    }
}

/// Files that are created before the simulation and written after it.
#[derive(Debug)]
pub(super) struct CreatedFiles {
    html: Option<(PathBuf, File)>,
    save: Option<(PathBuf, File)>,
}

impl CreatedFiles {
    /// Writes the report into them.
    pub(super) fn write(mut self, report: &SimulationReport) -> Result<(), Error> {
        if let Some(file) = &mut self.save {
            let json = text::to_json(report).map_err(|error| {
                Error::internal(format!("the report has no JSON form: {error}"))
            })?;
            write(file, &json)?;
        }
        if let Some(file) = &mut self.html {
            write(file, &report.to_html())?;
        }
        Ok(())
    }
}

/// Prints the report.
pub(super) fn show(report: &SimulationReport, as_json: bool) {
    if as_json {
        output::json_line(report);
    } else {
        output::lines(report.to_string().trim_end());
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Error> {
    let reports: Vec<_> = args.reports.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let report = SimulationReport::merged(reports)?;
    args.files.create()?.write(&report)?;
    show(&report, args.json);
    Ok(())
}

fn read(path: &Path) -> Result<SimulationReport, Error> {
    let shown = path.display();
    let text = files::read(path, MAX_REPORT_BYTES).map_err(|error| {
        Error::usage(format!("cannot read {shown}: {error}"))
            .with_fix("name a file that harness simulate --save wrote")
    })?;
    serde_json::from_slice(&text).map_err(|error| {
        Error::usage(format!("{shown} is not the report of a simulation: {error}"))
            .with_fix("name a file that harness simulate --save wrote")
    })
}
