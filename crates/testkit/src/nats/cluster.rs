//! Several NATS servers with routes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use super::address::free_address;
use super::client::NatsClient;
use super::link::{Cut, Link};
use super::server::{ClusterPart, NatsOptions, NatsServer};
use super::{PATIENCE, wait_for};

/// A server that leads a stream, or can reach its leader, answers within this time.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// NATS servers that form a cluster, in which JetStream can keep several replicas of a stream.
///
/// Each route between two servers goes through a [`Link`], and servers learn no other addresses of each
/// other.
#[derive(Debug)]
pub struct NatsCluster {
    // The servers are dropped before the links.
    servers: Vec<NatsServer>,
    /// The routes: the server that connects, the other one, and the link between them. Either of two servers
    /// connects to the other; they close one of the two connections themselves.
    routes: Vec<(usize, usize, Link)>,
}

impl NatsCluster {
    /// Starts so many servers, and waits until JetStream has a leader that knows all of them.
    ///
    /// # Errors
    /// A server does not start, or they do not find each other.
    pub fn start(count: usize, options: &NatsOptions) -> Result<NatsCluster, String> {
        let listen = (0..count).map(|_| free_address()).collect::<Result<Vec<_>, _>>()?;
        let mut cluster = NatsCluster { servers: Vec::new(), routes: Vec::new() };
        for from in 0..count {
            for (to, address) in listen.iter().enumerate().filter(|(to, _)| *to != from) {
                cluster.routes.push((from, to, Link::start(*address)?));
            }
            let own = cluster.routes.iter().filter(|(begin, ..)| *begin == from);
            let part = ClusterPart {
                name: "test".to_owned(),
                listen: listen[from],
                advertise: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
                routes: own.map(|(.., link)| link.address()).collect(),
            };
            cluster.servers.push(NatsServer::prepare(&format!("n{}", from + 1), options, Some(&part))?);
        }
        cluster.restart()?;
        Ok(cluster)
    }

    /// The servers, in their order. They are named `n1`, `n2` and so on.
    pub fn servers(&self) -> &[NatsServer] {
        &self.servers
    }

    /// A server.
    pub fn server(&mut self, index: usize) -> &mut NatsServer {
        &mut self.servers[index]
    }

    /// The URLs of all servers, with commas between them.
    pub fn urls(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// Kills all servers.
    pub fn kill(&mut self) {
        self.servers.iter_mut().for_each(NatsServer::kill);
    }

    /// Starts all servers again that do not run, and waits until JetStream has a leader that knows all of
    /// them.
    ///
    /// # Errors
    /// A server does not start, or they do not find each other.
    pub fn restart(&mut self) -> Result<(), String> {
        for server in self.servers.iter_mut().filter(|server| server.pid().is_none()) {
            server.spawn()?;
        }
        self.await_ready()
    }

    /// Waits until every server is ready, and JetStream has a leader to which all servers are current.
    ///
    /// # Errors
    /// That does not happen in time.
    pub fn await_ready(&mut self) -> Result<(), String> {
        self.servers.iter_mut().try_for_each(NatsServer::await_ready)?;
        let servers = &self.servers;
        let complete = wait_for(PATIENCE, || {
            servers.iter().any(|server| leads_all(server, servers.len())).then_some(())
        });
        complete.ok_or_else(|| {
            let logs: Vec<String> = servers.iter().map(NatsServer::log).collect();
            format!("the NATS servers do not form a cluster:\n{}", logs.join("\n"))
        })
    }

    /// The server that leads JetStream in the whole cluster: it places streams and consumers. `None`: no
    /// server does, or not all others are current.
    pub fn cluster_leader(&self) -> Option<usize> {
        self.servers.iter().position(|server| leads_all(server, self.servers.len()))
    }

    /// A client of the first server that accepts one within a second.
    ///
    /// # Errors
    /// No server accepts a client.
    pub fn client(&self) -> Result<NatsClient, String> {
        let mut problem = "the cluster has no servers".to_owned();
        for server in self.servers.iter().filter(|server| server.pid().is_some()) {
            match server.client_within(ANSWER_TIME) {
                Ok(client) => return Ok(client),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Creates a stream with a replica on every server, as [`NatsClient::create_stream`] does.
    ///
    /// # Errors
    /// As with [`NatsClient::create_stream`].
    pub fn create_stream(&self, configuration: &Value) -> Result<Value, String> {
        let mut whole = configuration.clone();
        if whole["num_replicas"].is_null() {
            whole["num_replicas"] = json!(self.servers.len());
        }
        self.client()?.create_stream(&whole)
    }

    /// The server that leads a stream. `None`: no server leads it, or no server says so within a second.
    /// While a leader is elected, requests about the stream have no answer.
    pub fn leader_of(&self, stream: &str) -> Option<usize> {
        let info = self.stream_info(stream).ok()?;
        self.index_of(info["cluster"]["leader"].as_str()?)
    }

    /// Waits until a server leads a stream and all replicas are current, and returns the server.
    ///
    /// # Errors
    /// That does not happen in time.
    pub fn await_leader(&self, stream: &str) -> Result<usize, String> {
        let mut last = String::new();
        let leader = wait_for(PATIENCE, || {
            let info = self.stream_info(stream).map_err(|error| last = error).ok()?;
            last = info["cluster"].to_string();
            let replicas = info["cluster"]["replicas"].as_array()?;
            let current = replicas.iter().all(|replica| replica["current"] == true);
            self.index_of(info["cluster"]["leader"].as_str().filter(|_| current)?)
        });
        leader.ok_or_else(|| format!("stream {stream} has no leader with current replicas: {last}"))
    }

    /// What the first server says that answers within a second.
    fn stream_info(&self, stream: &str) -> Result<Value, String> {
        let mut problem = "no server of the cluster runs".to_owned();
        for server in self.servers.iter().filter(|server| server.pid().is_some()) {
            let subject = format!("STREAM.INFO.{stream}");
            let asked = server.client_within(ANSWER_TIME);
            match asked.and_then(|mut client| client.jetstream_within(&subject, &Value::Null, ANSWER_TIME)) {
                Ok(info) => return Ok(info),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.name() == name)
    }

    /// Cuts all routes of a server, so that it is apart from the others. Its clients stay connected.
    pub fn cut_routes(&self, server: usize, cut: Cut) {
        self.routes_of(server).for_each(|link| link.cut(cut));
    }

    /// Cuts the routes between two servers. Both stay connected with the others, which forward nothing
    /// between them.
    pub fn cut_routes_between(&self, one: usize, other: usize, cut: Cut) {
        let is_between = |from: usize, to: usize| (from, to) == (one, other) || (from, to) == (other, one);
        for (_, _, link) in self.routes.iter().filter(|(from, to, _)| is_between(*from, *to)) {
            link.cut(cut);
        }
    }

    /// Heals all routes of a server.
    pub fn heal_routes(&self, server: usize) {
        self.routes_of(server).for_each(Link::heal);
    }

    fn routes_of(&self, server: usize) -> impl Iterator<Item = &Link> {
        let ends = move |(from, to, _): &&(usize, usize, Link)| *from == server || *to == server;
        self.routes.iter().filter(ends).map(|(.., link)| link)
    }
}

/// Whether a server is JetStream's leader of a cluster of so many servers, and all others are current.
fn leads_all(server: &NatsServer, count: usize) -> bool {
    let page =
        server.monitor("/jsz").map(|(_, body)| serde_json::from_str::<Value>(&body).unwrap_or_default());
    let Ok(page) = page else { return false };
    let meta = &page["meta_cluster"];
    let replicas = meta["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
    meta["leader"] == server.name()
        && replicas.len() + 1 == count
        && replicas.iter().all(|replica| replica["current"] == true)
}
