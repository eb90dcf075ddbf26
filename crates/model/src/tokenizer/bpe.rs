//! Merges: the bytes of one word to token ids.
//!
//! The rule of byte-pair encoding: of all neighbouring pairs that have a merge, the one with the lowest rank is
//! joined first, the leftmost of equals. A heap of candidate pairs over a linked list of symbols does this in
//! n log n steps, so that a word of a megabyte costs no more per byte than a short one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::error::{TokenizerError, shown};
use super::vocabulary::{TokenKind, Vocabulary};

/// Merges of one tokenizer.
pub(super) const MERGES_MAX: usize = 1 << 22;

/// No symbol on this side.
const END: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    rank: u32,
    result: u32,
}

/// All merges, and the ids of the 256 bytes that words start from.
#[derive(Debug)]
pub(super) struct Merges {
    rules: HashMap<(u32, u32), Rule>,
    bytes: [u32; 256],
}

impl Merges {
    /// Resolves `pairs`, best first, with `id_of` (tokens as the file writes them). A merge whose result is an added
    /// token is left out: text is searched for added tokens before it is merged, so that only text that must not
    /// form one could ever use it.
    pub(super) fn new<'p>(
        pairs: impl ExactSizeIterator<Item = (&'p str, &'p str)>,
        vocabulary: &Vocabulary,
        id_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, TokenizerError> {
        if pairs.len() > MERGES_MAX {
            return Err(TokenizerError::TooLarge {
                what: "list of merges",
                got: pairs.len(),
                max: MERGES_MAX,
            });
        }
        let mut rules = HashMap::with_capacity(pairs.len());
        let mut joined = String::new();
        for (rank, (index, (left, right))) in (0_u32..).zip(pairs.enumerate()) {
            let refuse = |reason| TokenizerError::Merge {
                index,
                merge: shown(&format!("{left} {right}")),
                reason,
            };
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let (Some(left_id), Some(right_id)) = (id_of(left), id_of(right)) else {
                return Err(refuse("a part of it is no token of the vocabulary"));
            };
            let Some(result) = id_of(&joined) else {
                return Err(refuse("its result is no token of the vocabulary"));
            };
            if vocabulary.kind(result) != Some(TokenKind::Ordinary) {
                continue;
            }
            if rules
                .insert((left_id, right_id), Rule { rank, result })
                .is_some()
            {
                return Err(refuse("it is listed twice, with different ranks"));
            }
        }
        Ok(Self {
            rules,
            bytes: byte_ids(vocabulary)?,
        })
    }

    fn rule(&self, left: u32, right: u32) -> Option<Rule> {
        self.rules.get(&(left, right)).copied()
    }

    /// Appends the ids of one word to `ids`. `word` is shorter than 4 GiB, which the bound on texts ensures.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if let [byte] = word {
            ids.push(self.bytes[usize::from(*byte)]);
            return;
        }
        scratch.load(word.iter().map(|&byte| self.bytes[usize::from(byte)]));
        scratch.collect_candidates(self);
        while let Some(Reverse(candidate)) = scratch.candidates.pop() {
            scratch.join(self, candidate);
        }
        ids.extend(
            scratch
                .symbols
                .iter()
                .filter(|symbol| symbol.alive)
                .map(|symbol| symbol.id),
        );
    }
}

/// The tokens of the single bytes. A vocabulary without one of them could not write every text.
fn byte_ids(vocabulary: &Vocabulary) -> Result<[u32; 256], TokenizerError> {
    let mut ids = [0; 256];
    for (byte, id) in (0..=u8::MAX).zip(&mut ids) {
        *id = vocabulary
            .ordinary_id(&[byte])
            .ok_or_else(|| TokenizerError::Missing {
                what: format!("token for the byte 0x{byte:02x}"),
            })?;
    }
    Ok(ids)
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    id: u32,
    previous: u32,
    next: u32,
    alive: bool,
}

/// A pair that may be joined. The order of the fields is the order of joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    position: u32,
    result: u32,
}

/// Working memory, reused from word to word.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Reverse<Candidate>>,
}

impl Scratch {
    fn load(&mut self, ids: impl Iterator<Item = u32>) {
        self.symbols.clear();
        self.candidates.clear();
        for (position, id) in (0_u32..).zip(ids) {
            self.symbols.push(Symbol {
                id,
                previous: position.checked_sub(1).unwrap_or(END),
                next: position + 1,
                alive: true,
            });
        }
        if let Some(last) = self.symbols.last_mut() {
            last.next = END;
        }
    }

    fn symbol(&self, position: u32) -> Option<Symbol> {
        self.symbols.get(usize::try_from(position).ok()?).copied()
    }

    fn symbol_mut(&mut self, position: u32) -> Option<&mut Symbol> {
        self.symbols.get_mut(usize::try_from(position).ok()?)
    }

    fn collect_candidates(&mut self, merges: &Merges) {
        for (position, pair) in (0_u32..).zip(self.symbols.windows(2)) {
            if let [left, right] = pair
                && let Some(Rule { rank, result }) = merges.rule(left.id, right.id)
            {
                self.candidates.push(Reverse(Candidate {
                    rank,
                    position,
                    result,
                }));
            }
        }
    }

    /// Joins the pair at the candidate's position, unless earlier joins have changed it.
    fn join(&mut self, merges: &Merges, candidate: Candidate) {
        let position = candidate.position;
        let Some(left) = self.symbol(position).filter(|left| left.alive) else {
            return;
        };
        let Some(right) = self.symbol(left.next) else {
            return;
        };
        // The reference implementation compares results, not pairs: two ways to the same token are one candidate.
        if merges.rule(left.id, right.id).map(|rule| rule.result) != Some(candidate.result) {
            return;
        }
        if let Some(gone) = self.symbol_mut(left.next) {
            gone.alive = false;
        }
        if let Some(joined) = self.symbol_mut(position) {
            joined.id = candidate.result;
            joined.next = right.next;
        }
        if let Some(after) = self.symbol_mut(right.next) {
            after.previous = position;
        }
        self.consider(merges, left.previous);
        self.consider(merges, position);
    }

    /// Adds the pair that begins at `position`, if there is one and it has a merge.
    fn consider(&mut self, merges: &Merges, position: u32) {
        let Some(left) = self.symbol(position) else {
            return;
        };
        let Some(right) = self.symbol(left.next) else {
            return;
        };
        if let Some(Rule { rank, result }) = merges.rule(left.id, right.id) {
            self.candidates.push(Reverse(Candidate {
                rank,
                position,
                result,
            }));
        }
    }
}
