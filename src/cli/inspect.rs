//! stub
#[derive(Debug, clap::Args)] pub struct InspectArgs {}
pub fn run(_: InspectArgs) -> anyhow::Result<()> { todo!() }
