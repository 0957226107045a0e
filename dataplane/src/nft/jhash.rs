//! The kernel's hash of an address, and how it becomes a choice: so that it can be told beforehand which one.
//!
//! As in `include/linux/jhash.h` (Bob Jenkins' lookup3) and `net/netfilter/nft_hash.c`.

use std::net::IpAddr;

/// `jhash <address> mod modulus seed seed`: a number below `modulus`, which must not be 0.
pub(super) fn choice(address: IpAddr, modulus: u32, seed: u32) -> u32 {
    let hash = match address {
        IpAddr::V4(address) => jhash(&address.octets(), seed),
        IpAddr::V6(address) => jhash(&address.octets(), seed),
    };
    reciprocal_scale(hash, modulus)
}

/// Scales a number from all of `u32` down to below `modulus` (`include/linux/kernel.h`).
fn reciprocal_scale(hash: u32, modulus: u32) -> u32 {
    let scaled = (u64::from(hash) * u64::from(modulus)) >> 32;
    u32::try_from(scaled).unwrap_or(u32::MAX)
}

fn jhash(key: &[u8], seed: u32) -> u32 {
    const START: u32 = 0xdead_beef;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut state = [START.wrapping_add(length).wrapping_add(seed); 3];
    let mut rest = key;
    while rest.len() > 12
        && let Some((block, after)) = rest.split_first_chunk::<12>()
    {
        add(&mut state, block, u32::from_ne_bytes);
        state = mix(state);
        rest = after;
    }
    if !rest.is_empty() {
        let mut block = [0; 12];
        block.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        add(&mut state, &block, u32::from_le_bytes);
        state = finish(state);
    }
    let [_, _, c] = state;
    c
}

/// Adds three words: whole blocks in the machine's own order, what is left over byte by byte.
fn add(state: &mut [u32; 3], block: &[u8; 12], word: fn([u8; 4]) -> u32) {
    let (words, _) = block.as_chunks::<4>();
    for (sum, bytes) in state.iter_mut().zip(words) {
        *sum = sum.wrapping_add(word(*bytes));
    }
}

/// `__jhash_mix`.
fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    let step = |x: &mut u32, y: &mut u32, z: u32, bits| {
        *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
        *y = y.wrapping_add(z);
    };
    step(&mut a, &mut c, b, 4);
    step(&mut b, &mut a, c, 6);
    step(&mut c, &mut b, a, 8);
    step(&mut a, &mut c, b, 16);
    step(&mut b, &mut a, c, 19);
    step(&mut c, &mut b, a, 4);
    [a, b, c]
}

/// `__jhash_final`.
fn finish([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    let step = |x: &mut u32, y: u32, bits| *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    [a, b, c]
}
