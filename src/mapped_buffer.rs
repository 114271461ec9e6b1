//! Large buffers that go back to the system when they are dropped.
//!
//! An allocator keeps much of what is freed: glibc's takes the first large block as a
//! sign that more will follow, and from then on holds back up to 64 MiB for each of
//! its arenas. A daemon that builds a page of 16 MiB now and then would keep that
//! memory for ever. So buffers beyond [`HEAP_BYTES`] are anonymous mappings.

use std::fmt;
use std::io;

use memmap2::MmapMut;

/// Up to this many bytes a buffer is on the heap, where small ones are cheaper.
const HEAP_BYTES: usize = 64 << 10;

/// A buffer of bytes that grows.
pub struct MappedBuffer {
    memory: Memory,
    /// The bytes in use.
    length: usize,
    /// The size of the first mapping. What of it is not used takes no memory.
    expected: usize,
}

enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }
}

impl MappedBuffer {
    /// An empty buffer that takes no memory yet. `expected` is the most bytes it will
    /// usually have; it can have more, which costs a copy.
    #[must_use]
    pub const fn new(expected: usize) -> Self {
        Self { memory: Memory::Heap(Vec::new()), length: 0, expected }
    }

    /// Appends bytes.
    #[inline]
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.push_parts([bytes]);
    }

    /// Appends the bytes of all parts.
    #[inline]
    pub fn push_parts<const N: usize>(&mut self, parts: [&[u8]; N]) {
        let more = parts.iter().map(|part| part.len()).sum();
        if self.memory.bytes().len() - self.length < more {
            self.grow(more);
        }
        let memory = match &mut self.memory {
            Memory::Heap(bytes) => &mut bytes[..],
            Memory::Mapped(map) => &mut map[..],
        };
        for part in parts {
            let end = self.length + part.len();
            memory[self.length..end].copy_from_slice(part);
            self.length = end;
        }
    }

    /// Forgets all bytes after the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Makes room for `more` bytes.
    #[cold]
    fn grow(&mut self, more: usize) {
        let needed = self.length.saturating_add(more);
        let mut room = needed.max(self.memory.bytes().len().saturating_mul(2));
        if needed > HEAP_BYTES {
            if let Ok(mut map) = MmapMut::map_anon(room.max(self.expected)) {
                map[..self.length].copy_from_slice(self);
                self.memory = Memory::Mapped(map);
                return;
            }
            // Without address space for a mapping the heap may still have some.
        } else {
            room = room.clamp(256, HEAP_BYTES);
        }
        let mut bytes = vec![0; room];
        bytes[..self.length].copy_from_slice(self);
        self.memory = Memory::Heap(bytes);
    }
}

impl Default for MappedBuffer {
    fn default() -> Self {
        Self::new(0)
    }
}

impl std::ops::Deref for MappedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[..self.length]
    }
}

impl AsRef<[u8]> for MappedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl io::Write for MappedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push_bytes(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.push_bytes(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PartialEq for MappedBuffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for MappedBuffer {}

impl fmt::Debug for MappedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedBuffer").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer has what was appended, through every change of its memory.
    #[test]
    fn a_buffer_holds_what_was_appended_wherever_it_lies() {
        let piece: Vec<u8> = (0..=250).collect();
        let mut buffer = MappedBuffer::new(2 * HEAP_BYTES);
        let mut expected = Vec::new();
        let mut places = Vec::new();
        while expected.len() < 5 * HEAP_BYTES {
            buffer.push_bytes(&piece);
            expected.extend_from_slice(&piece);
            let place = match &buffer.memory {
                Memory::Heap(bytes) => ("heap", bytes.len() <= HEAP_BYTES),
                Memory::Mapped(map) => ("mapped", map.len() == 2 * HEAP_BYTES),
            };
            places.push(place);
            assert!(*buffer == *expected, "after {} bytes", expected.len());
        }
        places.dedup();
        assert_eq!(places, [("heap", true), ("mapped", true), ("mapped", false)]);
        buffer.truncate(3);
        buffer.truncate(100);
        assert_eq!(*buffer, [0, 1, 2]);
        buffer.push_bytes(b"x");
        assert_eq!(*buffer, [0, 1, 2, b'x']);
        assert!(MappedBuffer::new(10).is_empty());
    }
}
