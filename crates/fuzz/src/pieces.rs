//! Cuts an input into pieces, the same ones each time.

/// The ends of pieces that cover `len` bytes: at once, byte by byte, and two mixtures that depend on the
/// input.
pub(crate) fn ways_to_cut(input: &[u8]) -> Vec<Vec<usize>> {
    let len = input.len();
    vec![vec![len], (1..=len).collect(), mixed_ends(input, 7), mixed_ends(input, 40)]
}

/// Ends of pieces of 1 to `longest` bytes.
fn mixed_ends(input: &[u8], longest: usize) -> Vec<usize> {
    // FNV-1a over the input begins a chain of pseudo-random numbers (Knuth's MMIX constants).
    let mut state = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let (mut ends, mut end) = (Vec::new(), 0);
    while end < input.len() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        end = (end + 1 + (state >> 33) as usize % longest).min(input.len());
        ends.push(end);
    }
    ends
}
