//! Baselines that are somebody else's programs: this process becomes them, so that the process number stays.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::{Failure, Outcome};

const NODE: &str = include_str!("../../baselines/node.js");
const HOW: &str = "run loadtest/install-baselines.sh";

/// The first program of a name on the PATH, or where Debian, cargo and go put programs.
pub(super) fn find(name: &str) -> Outcome<PathBuf> {
    let of = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let mut places: Vec<PathBuf> =
        of("PATH").iter().flat_map(|paths| std::env::split_paths(paths).collect::<Vec<_>>()).collect();
    // Debian keeps servers where an ordinary user's PATH does not look.
    places.push(PathBuf::from("/usr/sbin"));
    places.extend(of("GOBIN").map(PathBuf::from));
    places.extend(of("GOPATH").map(|path| PathBuf::from(path).join("bin")));
    if let Some(home) = of("HOME").map(PathBuf::from) {
        places.extend([home.join("go/bin"), home.join(".cargo/bin")]);
    }
    let mut places = places.into_iter();
    let found = places.find_map(|place| Some(place.join(name)).filter(|program| program.is_file()));
    found.ok_or_else(|| Failure::new(format!("`{name}` is not on the PATH: {HOW}")))
}

/// nginx and the module.
pub(super) fn find_nchan() -> Outcome<(PathBuf, PathBuf)> {
    let nginx = find("nginx")?;
    let places = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/nginx/modules"];
    let module = places.iter().map(|place| PathBuf::from(place).join("ngx_nchan_module.so"));
    match module.into_iter().find(|module| module.is_file()) {
        Some(module) => Ok((nginx, module)),
        None => Err(Failure::new(format!("nginx has no nchan module (libnginx-mod-nchan): {HOW}"))),
    }
}

pub(super) fn become_program(command: &mut Command) -> Outcome<()> {
    let error = command.exec();
    Err(Failure::new(format!("{}: {error}", command.get_program().display())))
}

pub(super) fn node(port: u16) -> Outcome<()> {
    become_program(Command::new(find("node")?).arg("-e").arg(NODE).arg(port.to_string()))
}

pub(super) fn durable_streams(port: u16) -> Outcome<()> {
    let directory = scratch()?;
    let mut command = Command::new(find("durable-streams-server")?);
    command.args([
        "--host",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--durability",
        "memory",
        "--data-dir",
    ]);
    become_program(command.arg(&directory))
}

pub(super) fn nchan(port: u16) -> Outcome<()> {
    let (nginx, module) = find_nchan()?;
    let directory = scratch()?;
    let workers = crate::sys::allowed_cores().len();
    let (limit, _) = crate::sys::descriptor_limit();
    // As root nginx would hand its workers to a user who may not read the scratch directory.
    let user = if crate::sys::is_root() { "user root;" } else { "" };
    let configuration = format!(
        "load_module {module};
{user}
worker_processes {workers};
worker_rlimit_nofile {limit};
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 200000; multi_accept on; }}
http {{
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  nchan_shared_memory_size 512M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/sub/(.+)$ {{
      nchan_subscriber eventsource;
      nchan_channel_id $1;
      nchan_subscriber_first_message newest;
    }}
    location ~ ^/pub/(.+)$ {{
      nchan_publisher;
      nchan_channel_id $1;
      nchan_message_buffer_length 1000;
    }}
  }}
}}
",
        module = module.display()
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, configuration)
        .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let mut command = Command::new(nginx);
    command.arg("-p").arg(&directory).arg("-c").arg(&file).args(["-e", "stderr", "-g", "daemon off;"]);
    become_program(&mut command)
}

/// Where a baseline of a process number keeps its files.
pub(crate) fn scratch_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("fanfare-load-{pid}"))
}

pub(super) fn scratch() -> Outcome<PathBuf> {
    let directory = scratch_of(std::process::id());
    std::fs::create_dir_all(&directory)
        .map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
    Ok(directory)
}
