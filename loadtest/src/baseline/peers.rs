//! The hubs that `install-baselines.sh` builds or installs, with their settings.

use std::path::Path;
use std::process::{Command, Stdio};

use super::free_port;
use super::installed::{become_program, find, scratch};
use crate::failure::{Failure, Outcome};

/// The name under which the Go baseline is built.
pub(super) const GO: &str = "fanfare-load-go";
/// For a server that lives as long as a measurement, on loopback.
pub(super) const KEY: &str = "a-key-for-measurements-that-protects-nothing";

fn write(path: &Path, text: &str) -> Outcome<()> {
    std::fs::write(path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

pub(super) fn go(port: u16) -> Outcome<()> {
    become_program(Command::new(find(GO)?).arg(port.to_string()))
}

pub(super) fn mercure(port: u16) -> Outcome<()> {
    let program = find("mercure")?;
    let directory = scratch()?;
    let file = directory.join("Caddyfile");
    let configuration = format!(
        "{{
  admin off
  auto_https off
  persist_config off
  log {{
    level ERROR
  }}
  servers {{
    protocols h1
  }}
}}
http://127.0.0.1:{port} {{
  mercure {{
    transport local
    publisher_jwt {KEY} HS256
    anonymous
    write_timeout 0
  }}
}}
"
    );
    write(&file, &configuration)?;
    let mut command = Command::new(program);
    // Caddy keeps certificates and the like at home.
    command.env("XDG_DATA_HOME", &directory).env("XDG_CONFIG_HOME", &directory);
    become_program(command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file))
}

pub(super) fn centrifugo(port: u16) -> Outcome<()> {
    let program = find("centrifugo")?;
    let file = scratch()?.join("centrifugo.json");
    let configuration = serde_json::json!({
        "address": "127.0.0.1",
        "port": port.to_string(),
        "uni_sse": true,
        "client_insecure": true,
        "allow_subscribe_for_anonymous": true,
        "allow_subscribe_for_client": true,
        "api_key": KEY,
        "usage_stats_disable": true,
        "log_level": "error",
    });
    write(&file, &configuration.to_string())?;
    become_program(Command::new(program).arg("--config").arg(&file))
}

/// Pushpin starts its parts as children; the origin is one more.
pub(super) fn pushpin(port: u16, control_port: u16) -> Outcome<()> {
    let program = find("pushpin")?;
    let directory = scratch()?;
    let origin_port = free_port()?;
    let own = std::env::current_exe().map_err(|error| Failure::new(format!("this program: {error}")))?;
    let mut origin = Command::new(own);
    origin.args(["baseline", "pushpin", "--origin", "--with-parent", &std::process::id().to_string()]);
    origin.args(["--port", &origin_port.to_string()]);
    origin.stdin(Stdio::null()).spawn().map_err(|error| Failure::new(format!("the origin: {error}")))?;
    let scratch = directory.display();
    let configuration = format!(
        "[global]
include={{libdir}}/internal.conf
rundir={scratch}
ipc_prefix=pushpin-
[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={scratch}
log_level=1
client_buffer_size=32768
client_maxconn=20000
[proxy]
routesfile=routes
updates_check=off
zurl_out_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-in
zurl_out_stream_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-in-stream
zurl_in_specs=ipc://{{rundir}}/{{ipc_prefix}}zurl-out
[handler]
push_in_spec=ipc://{{rundir}}/{{ipc_prefix}}publish
push_in_sub_specs=ipc://{{rundir}}/{{ipc_prefix}}publish-sub
push_in_http_addr=127.0.0.1
push_in_http_port={control_port}
stats_spec=ipc://{{rundir}}/{{ipc_prefix}}stats
command_spec=ipc://{{rundir}}/{{ipc_prefix}}command
message_rate=10000000
message_hwm=10000000
"
    );
    write(&directory.join("routes"), &format!("* 127.0.0.1:{origin_port}\n"))?;
    let file = directory.join("pushpin.conf");
    write(&file, &configuration)?;
    become_program(Command::new(program).arg("--config").arg(&file))
}
