//! What holds the memory. jemalloc notes the stack of an allocation each time when so many bytes were
//! allocated, and keeps it until the memory is freed. It begins with the process or not at all.

use std::error::Error;
use std::ffi::{CStr, CString, c_int, c_void};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::{env, fmt, ptr};

use super::Functions;
use super::encoder::{Profile, Value};

/// The variable by which jemalloc, as this program has it, gets options beside those of the program.
const VARIABLE: &str = "_RJEM_MALLOC_CONF";

/// A sample each 2^19 bytes.
const OPTIONS: &str = "prof:true,prof_active:true,lg_prof_sample:19";

/// Why there is no profile of the heap.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The allocator takes no samples.
    Off,
    Failed(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::Off => f.write_str(
                "the allocator takes no samples: this program was built without them (the feature heap-profile), \
                 or could not start itself again with them; its log says why",
            ),
            Unavailable::Failed(why) => write!(f, "the profile of the heap cannot be made: {why}"),
        }
    }
}

/// Starts the program again, in the same process, with an allocator that takes samples. It returns only where
/// that is not needed, or fails.
///
/// # Errors
/// The program cannot be started again.
pub(crate) fn start_with_heap_samples() -> Result<(), Box<dyn Error>> {
    if !cfg!(feature = "heap-profile") || env::var_os(VARIABLE).is_some() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    // The name of the program is the name of the process. Where the file was replaced, the old one is still
    // there.
    let program = env::current_exe().ok().filter(|path| path.exists());
    let mut command = Command::new(program.unwrap_or_else(|| "/proc/self/exe".into()));
    command.arg0(arguments.next().unwrap_or_default()).args(arguments).env(VARIABLE, OPTIONS);
    Err(command.exec().into())
}

/// The memory that is in use, by the stacks that have allocated it. It blocks, and looks up names for long.
///
/// # Errors
/// The allocator takes no samples, or fails to give them.
pub(crate) fn heap() -> Result<Vec<u8>, Unavailable> {
    if !takes_samples() {
        return Err(Unavailable::Off);
    }
    let text = dump().map_err(|error| Unavailable::Failed(error.to_string()))?;
    profile_of(&text).ok_or_else(|| Unavailable::Failed("the allocator's text is not understood".to_owned()))
}

fn takes_samples() -> bool {
    let (mut is_on, mut length) = (false, size_of::<bool>());
    // SAFETY: the name ends with a zero; this command gives one `bool` (jemalloc(3), `opt.prof`), and takes
    // none. Where it is unknown, nothing is written.
    let result = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"opt.prof".as_ptr(),
            (&raw mut is_on).cast::<c_void>(),
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    result == 0 && is_on
}

/// The allocator writes its samples into a file, which is in memory here.
fn dump() -> io::Result<String> {
    const NAME: &CStr = c"heap-profile";
    // SAFETY: the name ends with a zero.
    let descriptor: c_int = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut path = path.as_ptr();
    // SAFETY: the name ends with a zero; this command takes a pointer to a text that ends with a zero
    // (jemalloc(3), `prof.dump`), which lives until it returns.
    let result = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"prof.dump".as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            (&raw mut path).cast::<c_void>(),
            size_of_val(&path),
        )
    };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Reads the allocator's text: `heap_v2/BYTES`, and then stacks (`@ 0x1 0x2`), each with a line of what all
/// threads have of it (`t*: OBJECTS: BYTES [...]`).
pub(super) fn profile_of(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines();
    let period: i64 = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
    let values =
        [Value { name: "inuse_objects", unit: "count" }, Value { name: "inuse_space", unit: "bytes" }];
    let mut profile = Profile::new(&values, Value { name: "space", unit: "bytes" }, period);
    let mut functions = Functions::default();
    let mut stack = None;
    for line in lines {
        if let Some(addresses) = line.strip_prefix('@') {
            let addresses = addresses.split_whitespace();
            let addresses = addresses.map(|text| usize::from_str_radix(text.trim_start_matches("0x"), 16));
            stack = Some(addresses.collect::<Result<Vec<usize>, _>>().ok()?);
        } else if line == "MAPPED_LIBRARIES:" {
            break;
        } else if let (Some(sums), Some(addresses)) = (line.trim_start().strip_prefix("t*:"), &stack) {
            let mut numbers = sums.split('[').next()?.split(':').map(|number| number.trim().parse::<i64>());
            let (objects, bytes) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            // They are all callers: the allocator is not among them.
            let frames: Vec<_> = addresses.iter().map(|&address| functions.of(address, true)).collect();
            let (objects, bytes) = unsampled(objects, bytes, period);
            if objects > 0 {
                profile.add(&frames, &[objects, bytes], None);
            }
        }
    }
    Some(profile.encode())
}

/// What was there, by what was sampled: an allocation of `size` bytes is sampled with the probability
/// `1 - exp(-size / period)`.
fn unsampled(objects: i64, bytes: i64, period: i64) -> (i64, i64) {
    if objects <= 0 || bytes <= 0 {
        return (0, 0);
    }
    let size = bytes as f64 / objects as f64;
    let scale = 1.0 / (1.0 - (-size / period as f64).exp());
    ((objects as f64 * scale) as i64, (bytes as f64 * scale) as i64)
}
