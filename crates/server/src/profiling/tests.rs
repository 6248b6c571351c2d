use std::hint::black_box;

use super::*;

/// The fields of a message: the number of each, and what it holds.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let value = varint(&mut bytes);
        found.push(match key & 7 {
            0 => (key >> 3, Field::Number(value)),
            2 => {
                let (inner, rest) = bytes.split_at(value as usize);
                bytes = rest;
                (key >> 3, Field::Bytes(inner))
            }
            other => panic!("the wire type {other} is not used"),
        });
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A profile as text: the name of each sample's innermost functions, its values, and its label.
fn read(profile: &[u8]) -> Vec<(Vec<String>, Vec<u64>, Vec<String>)> {
    let all = fields(profile);
    let of = |number: u64| {
        all.iter().filter_map(move |(field, value)| match value {
            Field::Bytes(bytes) if *field == number => Some(fields(bytes)),
            _ => None,
        })
    };
    let texts: Vec<String> = all
        .iter()
        .filter_map(|(field, value)| match value {
            Field::Bytes(bytes) if *field == 6 => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            _ => None,
        })
        .collect();
    let numbers = |message: &[(u64, Field<'_>)], number: u64| -> Vec<u64> {
        message
            .iter()
            .filter_map(|(field, value)| match value {
                Field::Number(value) if *field == number => Some(*value),
                _ => None,
            })
            .collect()
    };
    assert_eq!(texts[0], "");
    let functions: HashMap<u64, String> = of(5)
        .map(|function| (numbers(&function, 1)[0], texts[numbers(&function, 2)[0] as usize].clone()))
        .collect();
    let locations: HashMap<u64, Vec<String>> = of(4)
        .map(|location| {
            let lines = location.iter().filter_map(|(field, value)| match value {
                Field::Bytes(line) if *field == 4 => Some(numbers(&fields(line), 1)[0]),
                _ => None,
            });
            (numbers(&location, 1)[0], lines.map(|id| functions[&id].clone()).collect())
        })
        .collect();
    of(2)
        .map(|sample| {
            let stack = numbers(&sample, 1).iter().flat_map(|id| locations[id].clone()).collect();
            let labels = sample.iter().filter_map(|(field, value)| match value {
                Field::Bytes(label) if *field == 3 => {
                    Some(texts[numbers(&fields(label), 2)[0] as usize].clone())
                }
                _ => None,
            });
            (stack, numbers(&sample, 2), labels.collect())
        })
        .collect()
}

#[inline(never)]
fn burn_for_the_profile(until: impl Fn() -> bool) -> u64 {
    let mut sum = 0_u64;
    while !until() {
        for number in 0..100_000_u64 {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(number));
        }
    }
    sum
}

/// One test, because the timer is the process's: a busy function is found with its thread, a second profile
/// is not begun meanwhile, and one that is dropped makes room.
#[test]
fn a_profile_names_the_busy_function_and_its_thread() {
    let profile = CpuProfile::start().expect("no other one");
    assert!(CpuProfile::start().is_none(), "one at a time");
    let busy = std::thread::Builder::new().name("burns".to_owned()).spawn(|| {
        // Processor time of this thread, so that a busy machine makes no difference.
        let used = || {
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the pointer is to a value that lives.
            unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        burn_for_the_profile(|| used() >= Duration::from_millis(500));
        // Its name is read while it lives.
        std::thread::park();
    });
    let busy = busy.unwrap();
    let deadline = Duration::from_secs(60);
    let began = tokio::time::Instant::now();
    while !is_parked() && began.elapsed() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let samples = read(&profile.finish(Duration::from_secs(1)));
    busy.thread().unpark();
    busy.join().unwrap();
    let burning: Vec<_> = samples
        .iter()
        .filter(|(stack, ..)| stack.iter().any(|name| name.contains("burn_for_the_profile")))
        .collect();
    let count: u64 = burning.iter().map(|(_, values, _)| values[0]).sum();
    assert!(count >= 10, "{samples:?}");
    assert!(burning.iter().any(|(.., labels)| labels == &["burns"]), "{burning:?}");
    assert!(
        burning.iter().all(|(_, values, _)| values[1] == values[0] * (1_000_000_000 / 99)),
        "{burning:?}"
    );
    assert!(!samples.iter().any(|(stack, ..)| stack.iter().any(|name| name.contains("on_signal"))));
    drop(CpuProfile::start().expect("the first one is done"));
    drop(CpuProfile::start().expect("a profile that is dropped makes room"));
}

/// Whether the busy thread has done its work.
fn is_parked() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(Result::ok).any(|task| {
        let text = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        text("comm").trim_end() == "burns" && text("stat").contains(") S ")
    })
}

/// An address inside of this function.
#[inline(never)]
fn address_of_this() -> usize {
    let mut found = 0;
    backtrace::trace(|frame| {
        backtrace::resolve_frame(frame, |symbol| {
            if symbol.name().is_some_and(|name| name.to_string().contains("address_of_this")) {
                found = frame.ip() as usize;
            }
        });
        found == 0
    });
    found
}

#[test]
fn the_allocators_text_is_read_and_scaled() {
    let here = address_of_this();
    let text = format!(
        "heap_v2/524288\n  t*: 3: 1048600 [0: 0]\n  t0: 3: 1048600 [0: 0]\n@ {here:#x} 0x10\n  t*: 2: 1048576 [0: 0]\n  \
         t0: 2: 1048576 [0: 0]\n@ 0x20\n  t*: 1: 24 [0: 0]\n@ 0x30\n  t*: 0: 0 [5: 90]\n\nMAPPED_LIBRARIES:\n@ 0x1\n"
    );
    let samples = read(&heap::profile_of(&text).unwrap());
    assert_eq!(samples.len(), 2, "{samples:?}");
    // Of 512 KiB each, 63 % are sampled; of 24 bytes one in 21,846.
    let (stack, values, _) = &samples[0];
    assert!(stack.iter().any(|name| name.contains("address_of_this")), "{stack:?}");
    assert_eq!(stack.last().unwrap(), "0xf");
    assert_eq!(values, &[3, 1_658_822]);
    assert_eq!(samples[1].1, [21_845, 524_300]);
    for wrong in
        ["", "heap_v2/x\n", "heap_v3/1\n", "heap_v2/1\n@ 0xz\n", "heap_v2/1\n@ 0x1\n t*: a: 1 [0: 0]\n"]
    {
        assert!(heap::profile_of(wrong).is_none(), "{wrong}");
    }
}
