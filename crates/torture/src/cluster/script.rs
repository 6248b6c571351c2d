//! The scripts: each is a fault as data.

use fanfare_testkit::nats::Cut;

/// Where the NATS side of a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    /// One NATS server.
    Single,
    /// Three NATS servers, and a stream with a replica on each.
    Cluster,
    /// One NATS server with a small store.
    Small,
}

/// Which nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nodes {
    One(usize),
    All,
}

/// Which NATS servers. A single one is its own leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    One(usize),
    /// The leader of the stream at this moment.
    Leader,
    /// The first server that does not lead the stream at this moment.
    Follower,
    All,
}

/// A step of a script.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// In milliseconds.
    Wait(u64),
    /// SIGKILL.
    KillNode(Nodes),
    /// SIGTERM, and the end is waited for.
    StopNode(Nodes),
    /// Starts the nodes that do not run, and waits until they listen.
    StartNodes,
    /// Starts the nodes that do not run. They listen when they have reached NATS.
    BeginNodes,
    /// Waits until all nodes are ready.
    AwaitReady,
    /// Waits until a node says that it is not ready.
    AwaitUnready(usize),
    PauseNode(Nodes),
    ResumeNodes,
    KillNats(Servers),
    StopNats(Servers),
    PauseNats(Servers),
    /// Resumes the NATS servers that are paused, starts those that do not run, and waits until they are
    /// ready.
    StartNats,
    /// Cuts the links between nodes and NATS servers.
    Cut(Nodes, Servers, Cut),
    HealLinks,
    /// Cuts the routes between one NATS server and the others.
    CutRoutes(Servers, Cut),
    HealRoutes,
    /// Asks the leader of the stream to step down.
    LeaderLeaves,
    /// The publishers pause, or go on.
    Quiet,
    Load,
    /// So many events in one request.
    Burst(usize),
    /// Another NATS program publishes so many events.
    Foreign(usize),
    /// Another NATS program publishes what are no events.
    Illegal,
    /// So many subscribers come.
    Newcomers(usize),
    /// So many subscribers come with the newest id that another one has got so far.
    Resumers(usize),
    /// All subscribers read slowly, or fast again.
    Slow,
    Fast,
    /// Removes all messages of the stream but the newest.
    Purge(u64),
    /// Lets the stream keep so many messages, and then all again.
    Trim(u64),
    /// Deletes the stream, and creates one with the same settings.
    Recreate,
    /// Lets the stream refuse messages, as one that is full, or take them again.
    Full,
    NotFull,
    /// Fills the store of the NATS server with another stream, or removes that one.
    FillStore,
    FreeStore,
}

/// What gaps subscribers are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gaps {
    None,
    /// Where events are missing, and perhaps elsewhere.
    Some,
    /// Every subscriber that was there before the fault.
    Every,
}

/// A fault.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) name: String,
    pub(super) topology: Topology,
    pub(super) steps: Vec<Step>,
    pub(super) gaps: Gaps,
    /// Some publishes are answered 503 or 507.
    pub(super) refuses: bool,
    /// It is part of the smoke run.
    pub(super) smoke: bool,
}

impl Script {
    fn new(name: impl Into<String>, topology: Topology, steps: impl Into<Vec<Step>>) -> Script {
        let (name, steps) = (name.into(), steps.into());
        Script { name, topology, steps, gaps: Gaps::None, refuses: false, smoke: false }
    }

    fn gaps(self, gaps: Gaps) -> Script {
        Script { gaps, ..self }
    }

    fn refuses(self) -> Script {
        Script { refuses: true, ..self }
    }

    fn smoke(self) -> Script {
        Script { smoke: true, ..self }
    }

    /// Whether no step gives a stream a reason to end.
    pub(super) fn keeps_streams(&self) -> bool {
        !self.steps.iter().any(|step| {
            matches!(
                step,
                Step::KillNode(_) | Step::StopNode(_) | Step::PauseNode(_) | Step::Recreate | Step::Slow
            )
        }) && self.gaps == Gaps::None
    }
}

/// All scripts. What a script leaves cut, paused or down is mended at its end.
pub(super) fn all() -> Vec<Script> {
    let mut scripts = of_nodes(Topology::Single);
    scripts.extend(of_single_nats());
    scripts.extend(of_links());
    scripts.extend(of_streams());
    scripts.extend(of_other_programs());
    scripts.extend(of_clusters());
    scripts.extend(of_small_stores());
    scripts
}

fn of_nodes(topology: Topology) -> Vec<Script> {
    use Nodes::{All, One};
    use Step::{
        AwaitReady, Burst, KillNode, Load, Newcomers, PauseNode, Quiet, ResumeNodes, Resumers, StartNodes,
        StopNode, Wait,
    };
    let mut scripts = Vec::new();
    for node in 0..3 {
        let number = node + 1;
        let kill = Script::new(format!("kill node {number}"), topology, [KillNode(One(node)), Wait(800)]);
        scripts.push(if node == 0 { kill.smoke() } else { kill });
        scripts.push(Script::new(format!("stop node {number}"), topology, [StopNode(One(node)), Wait(300)]));
        scripts.push(Script::new(
            format!("pause node {number} for 3 s"),
            topology,
            [PauseNode(One(node)), Wait(3000), ResumeNodes],
        ));
    }
    let roll = |end: fn(Nodes) -> Step| -> Vec<Step> {
        (0..3).flat_map(|node| [end(One(node)), StartNodes, AwaitReady, Wait(300)]).collect()
    };
    scripts.push(Script::new("roll all nodes by SIGTERM", topology, roll(StopNode)).smoke());
    scripts.push(Script::new("roll all nodes by SIGKILL", topology, roll(KillNode)));
    scripts.push(Script::new(
        "kill an idle node",
        topology,
        [Quiet, Wait(500), KillNode(One(0)), Wait(500), StartNodes, Load, Wait(500)],
    ));
    scripts.push(Script::new(
        "kill a node during bursts",
        topology,
        [Burst(300), KillNode(One(1)), Burst(300), StartNodes, Burst(300)],
    ));
    scripts.push(Script::new(
        "newcomers while a node is down",
        topology,
        [KillNode(One(2)), Newcomers(8), Wait(500), StartNodes, Newcomers(8)],
    ));
    scripts.push(Script::new(
        "old ids at nodes that have begun again",
        topology,
        [Wait(300), KillNode(All), StartNodes, AwaitReady, Resumers(9), Wait(500)],
    ));
    scripts.push(Script::new("kill two nodes", topology, [KillNode(One(0)), KillNode(One(1)), Wait(1500)]));
    scripts.push(Script::new(
        "kill a node twice, the second time while it recovers",
        topology,
        [KillNode(One(0)), Wait(200), StartNodes, KillNode(One(0)), Wait(200), StartNodes],
    ));
    scripts
}

fn of_single_nats() -> Vec<Script> {
    use Nodes::{All, One};
    use Step::{
        AwaitReady, AwaitUnready, BeginNodes, Burst, Fast, KillNats, KillNode, Load, Newcomers, PauseNats,
        Quiet, Resumers, Slow, StartNats, StartNodes, StopNats, StopNode, Wait,
    };
    let script = |name: &str, steps: &[Step]| Script::new(name, Topology::Single, steps);
    let nats = Servers::All;
    vec![
        script("kill NATS for 1 s", &[KillNats(nats), Wait(1000), StartNats]).smoke(),
        // Longer than a publish waits (--nats-wait).
        script("kill NATS for 4 s", &[KillNats(nats), Wait(4000), StartNats]).refuses(),
        script("kill NATS and start it at once", &[KillNats(nats), StartNats]),
        script("kill NATS for 10 s", &[KillNats(nats), AwaitUnready(0), Wait(10_000), StartNats]).refuses(),
        script("stop NATS for 1 s", &[StopNats(nats), Wait(1000), StartNats]),
        script(
            "kill NATS without load",
            &[Quiet, Wait(300), KillNats(nats), Wait(800), StartNats, Load, Wait(500)],
        ),
        script(
            "kill NATS twice",
            &[KillNats(nats), Wait(500), StartNats, Wait(100), KillNats(nats), StartNats],
        ),
        script("kill NATS between bursts", &[Burst(300), KillNats(nats), StartNats, Burst(300)]),
        script("pause NATS for 1 s", &[PauseNats(nats), Wait(1000), StartNats]),
        script("pause NATS for 4 s", &[PauseNats(nats), Wait(4000), StartNats]).smoke(),
        script("newcomers while NATS is away", &[KillNats(nats), Newcomers(9), Wait(1500), StartNats]),
        script(
            "old ids after NATS was killed",
            &[Wait(300), KillNats(nats), StartNats, Resumers(9), Wait(500)],
        ),
        script(
            "old ids while NATS is away",
            &[Wait(300), KillNats(nats), Resumers(9), Wait(1500), StartNats],
        ),
        script(
            "slow subscribers while NATS is paused",
            &[Slow, PauseNats(nats), Wait(2000), StartNats, Wait(500), Fast],
        ),
        script(
            "start a node while NATS is away",
            &[KillNode(One(0)), KillNats(nats), Wait(300), BeginNodes, Wait(1500), StartNats],
        ),
        script(
            "start all nodes while NATS is away",
            &[KillNode(All), KillNats(nats), BeginNodes, Wait(1000), StartNats],
        ),
        script(
            "start a node while NATS is paused",
            &[KillNode(One(1)), PauseNats(nats), BeginNodes, Wait(1500), StartNats],
        ),
        script(
            "stop a node while NATS is away",
            &[KillNats(nats), Wait(500), StopNode(One(2)), StartNats, StartNodes],
        ),
        script(
            "kill everything",
            &[KillNode(All), KillNats(nats), Wait(300), StartNats, StartNodes, AwaitReady],
        )
        .smoke(),
        script(
            "stop everything",
            &[StopNode(All), StopNats(nats), Wait(300), StartNats, StartNodes, AwaitReady],
        ),
    ]
}

fn of_links() -> Vec<Script> {
    use Nodes::{All, One};
    use Step::{AwaitUnready, Burst, Cut as CutLinks, HealLinks, Newcomers, Resumers, Wait};
    let nats = Servers::All;
    let mut scripts = Vec::new();
    let kinds = [
        (Cut::Reset, "reset"),
        (Cut::BlackHole, "black hole"),
        (Cut::ClientToServer, "to NATS alone"),
        (Cut::ServerToClient, "from NATS alone"),
    ];
    for node in 0..3 {
        for (cut, name) in kinds {
            let name = format!("cut node {} from NATS, {name}", node + 1);
            let steps = [CutLinks(One(node), nats, cut), Wait(1500), HealLinks, Wait(300)];
            let script = Script::new(name, Topology::Single, steps);
            scripts.push(if node == 1 && cut == Cut::ServerToClient { script.smoke() } else { script });
        }
    }
    for (cut, name) in kinds {
        let steps = [CutLinks(All, nats, cut), Wait(1500), HealLinks, Wait(300)];
        scripts.push(Script::new(format!("cut all nodes from NATS, {name}"), Topology::Single, steps));
    }
    let script = |name: &str, steps: &[Step]| Script::new(name, Topology::Single, steps);
    scripts.extend([
        script(
            "cut a node for 15 s",
            &[CutLinks(One(0), nats, Cut::BlackHole), AwaitUnready(0), Wait(15_000), HealLinks],
        ),
        script(
            "cut a node, and its connections are forgotten",
            &[CutLinks(One(1), nats, Cut::Forgotten), Wait(3000), HealLinks],
        ),
        script(
            "a second cut while a node recovers",
            &[
                CutLinks(One(0), nats, Cut::Reset),
                Wait(800),
                HealLinks,
                Wait(150),
                CutLinks(One(0), nats, Cut::BlackHole),
                Wait(1500),
                HealLinks,
            ],
        ),
        script(
            "a node that is cut often",
            &[
                CutLinks(One(2), nats, Cut::Reset),
                Wait(100),
                HealLinks,
                Wait(200),
                CutLinks(One(2), nats, Cut::Reset),
                Wait(100),
                HealLinks,
                Wait(400),
                CutLinks(One(2), nats, Cut::Reset),
                Wait(100),
                HealLinks,
            ],
        ),
        script(
            "bursts that a cut node has to catch up with",
            &[CutLinks(One(1), nats, Cut::Reset), Burst(500), Burst(500), HealLinks],
        ),
        script(
            "newcomers and old ids at a cut node",
            &[
                CutLinks(One(0), nats, Cut::BlackHole),
                Wait(500),
                Newcomers(6),
                Resumers(6),
                Wait(1000),
                HealLinks,
            ],
        ),
    ]);
    scripts
}

fn of_streams() -> Vec<Script> {
    use Nodes::{All, One};
    use Step::{
        AwaitReady, Burst, Cut as CutLinks, Foreign, Full, HealLinks, KillNode, Load, NotFull, PauseNode,
        Purge, Quiet, Recreate, ResumeNodes, StartNodes, Trim, Wait,
    };
    let nats = Servers::All;
    let script = |name: &str, steps: &[Step]| Script::new(name, Topology::Single, steps);
    vec![
        script("purge a stream that all have read", &[Purge(5), Wait(300)]),
        script(
            "purge under a node that lags",
            &[CutLinks(One(0), nats, Cut::BlackHole), Burst(300), Purge(3), HealLinks, Wait(300)],
        )
        .gaps(Gaps::Some),
        script(
            "trim under a node that is paused",
            &[PauseNode(One(1)), Burst(300), Trim(3), ResumeNodes, Wait(300)],
        )
        .gaps(Gaps::Some),
        script(
            "trim while a node is down",
            &[KillNode(One(2)), Burst(300), Trim(3), StartNodes, AwaitReady, Wait(300)],
        )
        .gaps(Gaps::Some),
        // All nodes begin anew, so none of them knows the events that are gone. Where a publisher repeated
        // one of these, the nodes could not decide about it before the duplicate window is over.
        script(
            "purge under all nodes",
            &[
                Quiet,
                CutLinks(All, nats, Cut::Reset),
                Foreign(200),
                Purge(1),
                HealLinks,
                AwaitReady,
                Load,
                Wait(500),
            ],
        )
        .gaps(Gaps::Every)
        .smoke(),
        script("delete the stream and make it again", &[Recreate, Wait(500)]).gaps(Gaps::Every).smoke(),
        script(
            "another stream behind a cut",
            &[CutLinks(All, nats, Cut::Reset), Wait(300), Recreate, Foreign(20), HealLinks, Wait(500)],
        )
        .gaps(Gaps::Every),
        script("a stream that is full", &[Full, Wait(1500), NotFull]).refuses().smoke(),
        script(
            "a full stream and a node that begins",
            &[Full, KillNode(One(0)), StartNodes, Wait(500), NotFull],
        )
        .refuses(),
    ]
}

fn of_other_programs() -> Vec<Script> {
    use Nodes::One;
    use Step::{Cut as CutLinks, Foreign, HealLinks, Illegal, KillNats, KillNode, StartNats, Wait};
    let script = |name: &str, steps: &[Step]| Script::new(name, Topology::Single, steps);
    vec![
        script("events of another NATS program", &[Foreign(50), Wait(300)]).smoke(),
        script("messages that are no events", &[Illegal, Wait(200), Foreign(10), Illegal]).smoke(),
        script(
            "no events while a node catches up",
            &[CutLinks(One(0), Servers::All, Cut::Reset), Illegal, Foreign(50), Illegal, HealLinks],
        ),
        script("no events at the start of a node", &[KillNode(One(1)), Illegal]),
        script(
            "another program and a NATS that is killed",
            &[Foreign(50), KillNats(Servers::All), StartNats, Foreign(50)],
        ),
    ]
}

fn of_clusters() -> Vec<Script> {
    use Nodes::{All, One};
    use Servers::{Follower, Leader};
    use Step::{
        AwaitReady, Burst, Cut as CutLinks, CutRoutes, Fast, Foreign, HealLinks, HealRoutes, KillNats,
        KillNode, LeaderLeaves, Load, Newcomers, PauseNats, Purge, Quiet, Recreate, Resumers, Slow,
        StartNats, StartNodes, StopNats, StopNode, Wait,
    };
    let script = |name: &str, steps: &[Step]| Script::new(format!("R3: {name}"), Topology::Cluster, steps);
    let mut scripts = vec![
        script("kill the leader", &[KillNats(Leader), Wait(2000), StartNats]).smoke(),
        script("kill a follower", &[KillNats(Follower), Wait(1500), StartNats]).smoke(),
        script("stop the leader", &[StopNats(Leader), Wait(2000), StartNats]),
        script("pause the leader for 4 s", &[PauseNats(Leader), Wait(4000), StartNats]),
        script("pause a follower for 3 s", &[PauseNats(Follower), Wait(3000), StartNats]),
        script("the leader steps down", &[LeaderLeaves, Wait(1000)]).smoke(),
        script(
            "the leader steps down three times",
            &[LeaderLeaves, Wait(300), LeaderLeaves, Wait(300), LeaderLeaves, Wait(500)],
        ),
        script(
            "kill the leader without load",
            &[Quiet, Wait(300), KillNats(Leader), Wait(1500), StartNats, Load, Wait(500)],
        ),
        script("kill the leader between bursts", &[Burst(300), KillNats(Leader), Burst(300), StartNats]),
        script("kill two leaders", &[KillNats(Leader), Wait(2000), KillNats(Leader), Wait(1000), StartNats]),
        script("no quorum", &[KillNats(Servers::One(0)), KillNats(Servers::One(1)), Wait(2000), StartNats]),
        script("kill all servers", &[KillNats(Servers::All), Wait(500), StartNats]),
        script("pause all servers for 2 s", &[PauseNats(Servers::All), Wait(2000), StartNats]),
        script(
            "cut the routes of the leader, black hole",
            &[CutRoutes(Leader, Cut::BlackHole), Wait(4000), HealRoutes],
        ),
        script(
            "cut the routes of the leader, reset",
            &[CutRoutes(Leader, Cut::Reset), Wait(4000), HealRoutes],
        ),
        script(
            "cut the routes of a follower",
            &[CutRoutes(Follower, Cut::BlackHole), Wait(3000), HealRoutes],
        ),
        script("cut a node from the leader", &[CutLinks(One(0), Leader, Cut::Reset), Wait(1500), HealLinks]),
        script(
            "cut all nodes from the leader",
            &[CutLinks(All, Leader, Cut::BlackHole), Wait(3000), HealLinks],
        ),
        script(
            "cut all nodes from all servers",
            &[CutLinks(All, Servers::All, Cut::Reset), Wait(1500), HealLinks],
        ),
        script(
            "kill the leader and a node",
            &[KillNats(Leader), KillNode(One(1)), Wait(1500), StartNats, StartNodes],
        ),
        script(
            "stop a node while there is no leader",
            &[KillNats(Leader), StopNode(One(0)), StartNodes, Wait(1000), StartNats],
        ),
        script(
            "slow subscribers during a change of leaders",
            &[Slow, KillNats(Leader), Wait(1500), StartNats, Wait(500), Fast],
        ),
        script(
            "newcomers during a change of leaders",
            &[KillNats(Leader), Newcomers(9), Wait(1500), StartNats],
        ),
        script(
            "old ids after a change of leaders",
            &[Wait(300), KillNats(Leader), Wait(1500), Resumers(9), StartNats],
        ),
        script(
            "another program during a change of leaders",
            &[Foreign(20), LeaderLeaves, Foreign(20), Wait(300)],
        ),
        script(
            "roll all nodes",
            &[
                StopNode(One(0)),
                StartNodes,
                AwaitReady,
                StopNode(One(1)),
                StartNodes,
                AwaitReady,
                StopNode(One(2)),
                StartNodes,
                AwaitReady,
            ],
        ),
        script("purge during a change of leaders", &[LeaderLeaves, Purge(10), Wait(500)]),
        script("delete the stream and make it again", &[Recreate, Wait(500)]).gaps(Gaps::Every),
        script(
            "kill everything",
            &[KillNode(All), KillNats(Servers::All), Wait(300), StartNats, StartNodes, AwaitReady],
        ),
    ];
    let mut roll = Vec::new();
    for server in 0..3 {
        scripts.push(script(
            &format!("kill server {}", server + 1),
            &[KillNats(Servers::One(server)), Wait(1500), StartNats],
        ));
        roll.extend([StopNats(Servers::One(server)), Wait(500), StartNats]);
    }
    scripts.push(script("roll all servers", &roll));
    scripts
}

fn of_small_stores() -> Vec<Script> {
    use Step::{FillStore, FreeStore, KillNats, StartNats, Wait};
    let script = |name: &str, steps: &[Step]| Script::new(name, Topology::Small, steps);
    vec![
        script("a NATS server without room", &[FillStore, Wait(1500), FreeStore, Wait(300)]).refuses(),
        script(
            "a NATS server without room is killed",
            &[FillStore, Wait(500), KillNats(Servers::All), StartNats, Wait(500), FreeStore, Wait(300)],
        )
        .refuses(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_many_scripts_and_each_has_a_name_of_its_own() {
        let scripts = all();
        let mut names: Vec<&str> = scripts.iter().map(|script| script.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), scripts.len());
        assert!(names.len() >= 50, "{} scripts", names.len());
        let smoke: Vec<&Script> = scripts.iter().filter(|script| script.smoke).collect();
        assert!(smoke.iter().any(|script| script.topology == Topology::Cluster));
        let waits = smoke.iter().flat_map(|script| &script.steps);
        let waits: u64 = waits.map(|step| if let Step::Wait(time) = step { *time } else { 0 }).sum();
        assert!(waits < 20_000, "the smoke run waits for {waits} ms");
    }
}
