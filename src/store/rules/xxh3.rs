//! Streaming XXH3 with 128 bits and seed 0, whose state can be stored.
//!
//! The hash of the rules covers all of them in order. With states stored at
//! some rows, the cost of added rules does not depend on the size of the store.
//! The crate that provides the constants and the short forms does not expose
//! its state. A test compares this code with that crate.

use xxhash_rust::const_xxh3::const_custom_default_secret;
use xxhash_rust::xxh3::xxh3_128;

const SECRET: [u8; 192] = const_custom_default_secret(0);
/// The bytes that are mixed in at once.
const STRIPE_BYTES: usize = 64;
/// Stripes after which the lanes are scrambled: the secret advances by 8 bytes
/// a stripe and is used up.
const BLOCK_STRIPES: u64 = (192 - 64) / 8;
/// Inputs up to this length have forms of their own.
const MAX_SHORT_BYTES: u64 = 240;
/// The bytes held back: enough to hold a whole short input.
const BUFFER_BYTES: usize = 256;

/// As in the specification of the algorithm.
const PRIME32: [u64; 3] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D];
const PRIME64: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

type Lanes = [u64; 8];

/// The state of an unfinished hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Xxh3 {
    lanes: Lanes,
    /// Stripes mixed into the lanes.
    stripes: u64,
    /// The last stripe mixed in.
    last: [u8; STRIPE_BYTES],
    /// Bytes that are not mixed in yet, `held_len` of them.
    held: [u8; BUFFER_BYTES],
    held_len: usize,
}

impl Xxh3 {
    /// Returns the state of an empty input.
    pub(super) const fn new() -> Self {
        let [p32_1, p32_2, p32_3] = PRIME32;
        let [p64_1, p64_2, p64_3, p64_4, p64_5] = PRIME64;
        Self {
            lanes: [p32_3, p64_1, p64_2, p64_3, p64_4, p32_2, p64_5, p32_1],
            stripes: 0,
            last: [0; STRIPE_BYTES],
            held: [0; BUFFER_BYTES],
            held_len: 0,
        }
    }

    /// Adds more bytes.
    pub(super) fn update(&mut self, mut input: &[u8]) {
        loop {
            let room = self.held.get_mut(self.held_len..).unwrap_or_default();
            let (now, later) = input.split_at(input.len().min(room.len()));
            if let Some(room) = room.get_mut(..now.len()) {
                room.copy_from_slice(now);
            }
            self.held_len += now.len();
            input = later;
            // The end of the input is mixed in differently, so the held bytes
            // stay until more arrive.
            if input.is_empty() {
                return;
            }
            for stripe in self.held.as_chunks::<STRIPE_BYTES>().0 {
                mix_next(&mut self.lanes, &mut self.stripes, stripe);
                self.last = *stripe;
            }
            self.held_len = 0;
        }
    }

    /// Returns the hash of the bytes added so far.
    pub(super) fn digest(&self) -> u128 {
        let held = self.held.get(..self.held_len).unwrap_or_default();
        let length = self.stripes * STRIPE_BYTES as u64 + held.len() as u64;
        if length <= MAX_SHORT_BYTES {
            return xxh3_128(held);
        }
        let (mut lanes, mut stripes) = (self.lanes, self.stripes);
        let before_end = held.get(..held.len().saturating_sub(1)).unwrap_or_default();
        for stripe in before_end.as_chunks::<STRIPE_BYTES>().0 {
            mix_next(&mut lanes, &mut stripes, stripe);
        }
        // The last 64 bytes are mixed in, even if they already have been.
        let mut end = [0; STRIPE_BYTES];
        let all = self.last.iter().chain(held).rev();
        end.iter_mut().rev().zip(all).for_each(|(to, from)| *to = *from);
        mix(&mut lanes, &end, secret_at(192 - 64 - 7));
        let [p64_1, p64_2, ..] = PRIME64;
        let low = merge(&lanes, 11, length.wrapping_mul(p64_1));
        let high = merge(&lanes, 192 - 64 - 11, !length.wrapping_mul(p64_2));
        u128::from(high) << 64 | u128::from(low)
    }

    /// Returns the state as bytes to store.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 * 8 + 8 + STRIPE_BYTES + self.held_len);
        self.lanes.iter().for_each(|lane| bytes.extend_from_slice(&lane.to_le_bytes()));
        bytes.extend_from_slice(&self.stripes.to_le_bytes());
        bytes.extend_from_slice(&self.last);
        bytes.extend_from_slice(self.held.get(..self.held_len).unwrap_or_default());
        bytes
    }

    /// Returns the state from [`Self::to_bytes`]; `None` if the bytes are not
    /// from it.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (lanes, rest) = bytes.split_first_chunk::<64>()?;
        let (stripes, rest) = rest.split_first_chunk()?;
        let (last, held) = rest.split_first_chunk()?;
        let mut state = Self::new();
        for (to, from) in state.lanes.iter_mut().zip(lanes.as_chunks().0) {
            *to = u64::from_le_bytes(*from);
        }
        state.stripes = u64::from_le_bytes(*stripes);
        state.last = *last;
        state.held_len = held.len();
        state.held.get_mut(..held.len())?.copy_from_slice(held);
        Some(state)
    }
}

/// Mixes in a stripe before the end, and scrambles after a block.
fn mix_next(lanes: &mut Lanes, stripes: &mut u64, stripe: &[u8; STRIPE_BYTES]) {
    let in_block = *stripes % BLOCK_STRIPES;
    // At most 15, so that the conversion cannot fail.
    mix(lanes, stripe, secret_at(usize::try_from(in_block).unwrap_or(0) * 8));
    *stripes += 1;
    if in_block == BLOCK_STRIPES - 1 {
        for (lane, secret) in lanes.iter_mut().zip(words(secret_at(192 - 64))) {
            *lane = (*lane ^ (*lane >> 47) ^ secret).wrapping_mul(PRIME32[0]);
        }
    }
}

/// Mixes a stripe into the lanes: the product of each keyed word's halves into
/// its own lane, and the word itself into the adjacent lane.
fn mix(lanes: &mut Lanes, stripe: &[u8; STRIPE_BYTES], secret: &[u8; STRIPE_BYTES]) {
    let (words, secret) = (words(stripe), words(secret));
    let (pairs, _) = lanes.as_chunks_mut::<2>();
    for ((pair, word), secret) in
        pairs.iter_mut().zip(words.as_chunks::<2>().0).zip(secret.as_chunks::<2>().0)
    {
        let ([left, right], [w0, w1], [s0, s1]) = (pair, word, secret);
        let halves = |keyed: u64| (keyed & 0xFFFF_FFFF).wrapping_mul(keyed >> 32);
        *left = left.wrapping_add(*w1).wrapping_add(halves(w0 ^ s0));
        *right = right.wrapping_add(*w0).wrapping_add(halves(w1 ^ s1));
    }
}

/// Folds the lanes into 64 bits.
fn merge(lanes: &Lanes, secret: usize, start: u64) -> u64 {
    let secret = words(secret_at(secret));
    let (lanes, secret) = (lanes.as_chunks::<2>().0, secret.as_chunks::<2>().0);
    let sum = lanes.iter().zip(secret).fold(start, |sum, ([a, b], [s, t])| {
        let product = (u128::from(a ^ s) * u128::from(b ^ t)).to_le_bytes();
        let [low, high] = halves_of(product);
        sum.wrapping_add(low ^ high)
    });
    let sum = (sum ^ (sum >> 37)).wrapping_mul(0x1656_6791_9E37_79F9);
    sum ^ (sum >> 32)
}

fn halves_of(bytes: [u8; 16]) -> [u64; 2] {
    let mut halves = [0; 2];
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
        *half = u64::from_le_bytes(*bytes);
    }
    halves
}

fn words(bytes: &[u8; STRIPE_BYTES]) -> Lanes {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Returns 64 bytes of the secret; `at` is at most 128.
fn secret_at(at: usize) -> &'static [u8; STRIPE_BYTES] {
    const FIRST: &[u8; STRIPE_BYTES] = match SECRET.first_chunk() {
        Some(first) => first,
        None => &[0; STRIPE_BYTES],
    };
    SECRET.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(FIRST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..=250_u8).cycle().map(|n| n.wrapping_mul(n)).take(length).collect()
    }

    /// RULE-8: bit for bit what the crate computes, at every length around
    /// which the algorithm turns.
    #[test]
    fn rule_8_the_stream_is_xxh3_at_every_length() {
        for length in (0..2_200).chain([3_072, 3_073, 65_535, 65_536, 65_537]) {
            let input = bytes(length);
            let mut state = Xxh3::new();
            state.update(&input);
            assert_eq!(state.digest(), xxh3_128(&input), "{length}");
        }
    }

    proptest! {
        #[test]
        fn pieces_and_a_stored_state_make_no_difference(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
            store_at in 0..40_usize,
        ) {
            let mut state = Xxh3::new();
            for (place, piece) in pieces.iter().enumerate() {
                if place == store_at {
                    state = Xxh3::from_bytes(&state.to_bytes()).expect("a state");
                }
                state.update(piece);
                prop_assert_eq!(&Xxh3::from_bytes(&state.to_bytes()).expect("a state").digest(), &state.digest());
            }
            prop_assert_eq!(state.digest(), xxh3_128(&pieces.concat()));
        }
    }

    #[test]
    fn bytes_that_are_no_state_are_not_taken() {
        assert_eq!(Xxh3::from_bytes(&[0; 135]), None);
        assert_eq!(Xxh3::from_bytes(&[0; 136 + BUFFER_BYTES + 1]), None);
    }
}
