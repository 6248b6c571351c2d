//! What a backend promises about listeners and the connections that come to them.

use super::*;

pub(super) fn accepts_more_than_one_wait_allows<I: Io>(_: &str, open: Open<I>) {
    let count = 2 * ACCEPT_BUDGET + 50;
    let mut stage = Stage::new(open);
    let peers: Vec<_> = (0..count).map(|_| connect(stage.address)).collect();

    stage.wait(Duration::ZERO);
    assert!(accepted(&stage.seen).len() <= ACCEPT_BUDGET, "one wait accepts a bounded number");
    // The edge has been told. The rest must come all the same, and without waiting for it.
    let start = stage.clock.now();
    while accepted(&stage.seen).len() < count {
        stage.io.wait(Some(PATIENCE), &mut stage.seen).unwrap();
    }
    assert!(stage.clock.now() - start < PATIENCE / 2, "a wait slept while connections were queued");
    let sockets = stage.accept(count);
    assert_eq!(sockets.len(), peers.len());
    stage.expect_quiet();
    stage.io.close(&sockets.iter().map(|&socket| (socket, None)).collect::<Vec<_>>());
}

pub(super) fn accepted_sockets_do_not_block_and_are_not_inherited<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (_peer, socket) = stage.connect();
    // SAFETY: no pointers are involved.
    let (status, descriptor) =
        unsafe { (libc::fcntl(socket, libc::F_GETFL), libc::fcntl(socket, libc::F_GETFD)) };
    assert_ne!(status & libc::O_NONBLOCK, 0);
    assert_ne!(descriptor & libc::FD_CLOEXEC, 0);
}

pub(super) fn accepts_from_several_listeners<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let first = stage.address;
    let mut more = sockets::listen("127.0.0.1:0".parse().unwrap(), 16, &SocketOptions::default(), 1).unwrap();
    let listener = more.remove(0);
    let second = sockets::local_address(std::os::fd::AsFd::as_fd(&listener)).unwrap();
    // This one is queued before the backend knows the listener.
    let early = connect(second);
    stage.io.listen(listener).unwrap();
    assert_eq!(stage.accept(1).len(), 1);
    let peers = [connect(first), connect(second)];
    assert_eq!(stage.accept(2).len(), 2);
    drop((early, peers));
}

pub(super) fn an_accepted_socket_names_its_listener_and_its_peer<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (listener, address) = unix_listener();
    stage.io.listen(listener).unwrap();
    let tcp = connect(stage.address);
    let unix = UnixStream::connect_addr(&address).unwrap();
    stage.until("both", |seen| accepted(seen).len() == 2);
    for notification in stage.seen.drain(..) {
        let Notification::Accepted { socket, listener } = notification else { continue };
        let peer = match listener {
            0 => Peer::Ip(tcp.local_addr().unwrap()),
            _ => Peer::Unix,
        };
        assert_eq!(stage.io.peer(socket), Some(peer));
        assert_eq!(peer.address().is_some(), listener == 0);
        stage.io.send_batch(b"x", [socket].into_iter(), &mut Vec::new());
    }
    let mut byte = [0];
    (&unix).read_exact(&mut byte).unwrap();
    (&tcp).read_exact(&mut byte).unwrap();
}

pub(super) fn unix_listener() -> (OwnedFd, SocketAddr) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("fanfare/test/{}/{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    (listener.into(), address)
}

/// With one socket in all backends, and with the kernel's order alone, the first backend gets every
/// connection.
pub(super) fn a_shared_listener_wakes_one_backend_after_the_other<I: Io + 'static>(_: &str, open: Open<I>) {
    const BACKENDS: usize = 4;
    let (listener, address) = unix_listener();
    let (tell, told) = mpsc::channel();
    let all_listen = Arc::new(Barrier::new(BACKENDS + 1));
    let mut wakers = Vec::new();
    let mut threads = Vec::new();
    for backend in 0..BACKENDS {
        let (waker, listener, tell) = (Waker::new().unwrap(), listener.try_clone().unwrap(), tell.clone());
        let all_listen = Arc::clone(&all_listen);
        wakers.push(waker.clone());
        threads.push(thread::spawn(move || {
            let mut io = open(&waker).unwrap();
            io.listen_shared(listener).unwrap();
            all_listen.wait();
            let (mut seen, mut waits) = (Vec::new(), 0);
            while !seen.contains(&Notification::Woken) {
                io.wait(None, &mut seen).unwrap();
                waits += 1;
                seen.retain(|notification| match notification {
                    Notification::Accepted { .. } => {
                        tell.send(backend).unwrap();
                        false
                    }
                    _ => true,
                });
            }
            waits
        }));
    }
    all_listen.wait();
    let mut counts = [0; BACKENDS];
    // A thread that a busy machine does not run accepts nothing, so the others may be ahead for a while.
    let is_fair = |counts: &[usize]| counts.iter().min() >= counts.iter().max().map(|most| most / 2).as_ref();
    let mut total = 0;
    while total < 100 || (!is_fair(&counts) && total < 5000) {
        let _peer = UnixStream::connect_addr(&address).unwrap();
        counts[told.recv_timeout(PATIENCE).unwrap()] += 1;
        total += 1;
    }
    wakers.iter().for_each(Waker::wake);
    let waits: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{counts:?} in {waits} waits");
    assert!(is_fair(&counts), "{counts:?}");
    assert!(waits <= 2 * total, "{waits} waits: connections wake backends that find nothing");
}

pub(super) fn a_storm_on_a_shared_listener_is_accepted_whole<I: Io>(_: &str, open: Open<I>) {
    const STORM: usize = 300;
    let (listener, address) = unix_listener();
    let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
    let mut backends: Vec<I> = wakers.iter().map(|waker| open(waker).unwrap()).collect();
    for io in &mut backends {
        io.listen_shared(listener.try_clone().unwrap()).unwrap();
    }
    // The backlog of std's listeners is shorter than the storm.
    let storm = thread::spawn(move || {
        (0..STORM).map(|_| UnixStream::connect_addr(&address).unwrap()).collect::<Vec<_>>()
    });
    let mut counts = [0; 2];
    while counts.iter().sum::<usize>() < STORM {
        for (io, count) in backends.iter_mut().zip(&mut counts) {
            let mut seen = Vec::new();
            io.wait(Some(Duration::from_millis(1)), &mut seen).unwrap();
            assert!(seen.len() <= 16, "a backend leaves some to the others: {}", seen.len());
            *count += seen.len();
        }
    }
    assert!(counts.iter().all(|count| *count > STORM / 10), "{counts:?}");
    assert_eq!(storm.join().unwrap().len(), STORM);
}

/// A backend that is woken and has no descriptor left would keep the others from being woken.
pub(super) fn a_backend_without_room_leaves_a_shared_listener_to_the_others<I: Io>(
    name: &str,
    open: Open<I>,
) {
    in_child(name, || {
        limit_descriptors(200);
        let (listener, address) = unix_listener();
        let (full, other) = (Waker::new().unwrap(), Waker::new().unwrap());
        let (mut full, mut other) = (open(&full).unwrap(), open(&other).unwrap());
        full.listen_shared(listener.try_clone().unwrap()).unwrap();
        let first = UnixStream::connect_addr(&address).unwrap();
        let mut filler = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            filler.push(file);
        }
        let mut seen = Vec::new();
        full.wait(Some(PATIENCE), &mut seen).unwrap();
        assert_eq!(seen, [Notification::AcceptFailed(libc::EMFILE)]);

        filler.truncate(filler.len() - 10);
        other.listen_shared(listener).unwrap();
        let second = UnixStream::connect_addr(&address).unwrap();
        seen.clear();
        while accepted(&seen).len() < 2 {
            other.wait(Some(PATIENCE), &mut seen).unwrap();
        }
        seen.clear();
        full.wait(Some(Duration::ZERO), &mut seen).unwrap();
        assert_eq!(seen, [], "it waits for the word to go on");
        full.resume_accept();
        let third = UnixStream::connect_addr(&address).unwrap();
        full.wait(Some(PATIENCE), &mut seen).unwrap();
        if accepted(&seen).is_empty() {
            full.wait(Some(PATIENCE), &mut seen).unwrap();
        }
        assert_eq!(accepted(&seen).len(), 1, "it accepts again");
        drop((first, second, third));
    });
}

/// Rather than a wait that turns in circles.
pub(super) fn a_socket_that_does_not_listen_is_an_error<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    stage.io.listen(socket.into()).unwrap();
    let error = stage.io.wait(Some(Duration::ZERO), &mut stage.seen).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

pub(super) fn a_full_table_stops_accepting_until_resumed<I: Io>(name: &str, open: Open<I>) {
    in_child(name, || {
        limit_descriptors(200);
        let mut stage = Stage::new(open);
        // Peers live in the same table, so they are made first and the rest of the table is filled.
        let peers: Vec<_> = (0..5).map(|_| connect(stage.address)).collect();
        let mut filler = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            filler.push(file);
        }

        stage.until("failure", |seen| seen.contains(&Notification::AcceptFailed(libc::EMFILE)));
        assert_eq!(accepted(&stage.seen), []);
        // It does not try in circles: one notification, and waits that wait.
        stage.expect_quiet();

        filler.truncate(filler.len() - 3);
        stage.expect_quiet();
        stage.io.resume_accept();
        // No client has connected since, so there is no edge: the backend has to check by itself.
        stage.until("failure", |seen| seen.contains(&Notification::AcceptFailed(libc::EMFILE)));
        assert_eq!(accepted(&stage.seen).len(), 3);

        drop(filler);
        stage.io.resume_accept();
        assert_eq!(stage.accept(5).len(), peers.len());
    });
}

pub(super) fn stop_listening_keeps_what_was_accepted<I: Io>(_: &str, open: Open<I>) {
    let mut stage = Stage::new(open);
    let (mut peer, socket) = stage.watched(Token(7));
    stage.io.stop_listening();
    assert_eq!(
        std::net::TcpStream::connect(stage.address).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    let mut exceptions = Vec::new();
    stage.io.send_batch(b"still here", [socket].into_iter(), &mut exceptions);
    assert_eq!(exceptions, []);
    assert_eq!(read(&mut peer, 10), b"still here");
    stage.expect_quiet();
    stage.io.resume_accept();
    stage.expect_quiet();
}
