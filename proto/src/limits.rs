//! The caps on everything that comes from outside. No length that was read from a socket or a file reaches
//! an allocation before it was compared with one of these and with what really remains.

/// Characters of a node id.
pub const NODE_ID_MAX: usize = 80;
/// Characters of a name that an owner gives a machine.
pub const NODE_NAME_MAX: usize = 64;
/// Nodes in one household.
pub const NODES_MAX: usize = 64;

/// Rows (token positions) in one step.
pub const STEP_ROWS_MAX: u32 = 4096;
/// Sequences in one step.
pub const STEP_SEGMENTS_MAX: u32 = 512;
/// Values in one row that travels between stages.
pub const ROW_VALUES_MAX: u32 = 65_536;
/// Rows that one expert frame asks an owner for.
pub const EXPERT_ROWS_MAX: u32 = 512;
/// Experts of one row.
pub const ROW_EXPERTS_MAX: u32 = 256;
/// Rows of one frame to or from an owner of head blocks.
pub const HEAD_ROWS_MAX: u32 = 16;
/// Logits of one row.
pub const LOGITS_MAX: u32 = 1 << 20;
/// Words of 32 tokens of a token mask.
pub const MASK_WORDS_MAX: u32 = LOGITS_MAX / 32;
/// Bytes of the tables that precede the rows of a frame.
pub const FRAME_META_BYTES_MAX: u32 = 4 << 20;
/// Bytes of rows in one frame.
pub const FRAME_BODY_BYTES_MAX: u32 = 256 << 20;
/// Cache pages that one segment may add.
pub const SEGMENT_PAGES_MAX: u32 = 65_536;
/// Positions of one sequence.
pub const SEQUENCE_POSITIONS_MAX: u32 = 1 << 20;
/// Alternatives reported beside a sampled token.
pub const LOGPROBS_MAX: u32 = 1024;
/// Entries of a logit bias.
pub const LOGIT_BIAS_MAX: u32 = 1024;
/// Token ids that a request may hold back (end ids before `min_tokens`).
pub const SUPPRESS_MAX: u32 = 64;
/// Characters of the explanation inside a fault frame.
pub const FAULT_TEXT_BYTES_MAX: u32 = 2048;
/// Sequences that one close frame names.
pub const CLOSE_SEQUENCES_MAX: u32 = 4096;

/// Bytes of one control message.
pub const CONTROL_BYTES_MAX: usize = 4 << 20;
/// Bytes that an unknown peer may send while pairing.
pub const PAIRING_BYTES_MAX: usize = 4096;
/// Time that an unknown peer has to pair.
pub const PAIRING_MS_MAX: u64 = 10_000;
/// Time that a device may wait on the owner's screen to be let in.
pub const KNOCK_MS_MAX: u64 = 90_000;
/// Devices that may wait on the owner's screen at once.
pub const KNOCKS_MAX: usize = 8;
/// Of these from one address.
pub const KNOCKS_PER_ADDRESS_MAX: usize = 2;
/// Unknown peers that may be pairing at once.
pub const PAIRING_PEERS_MAX: usize = 16;
/// Invites that may be open at once.
pub const INVITES_MAX: usize = 64;
/// Addresses inside one invite or one member's record.
pub const ADDRESSES_MAX: usize = 16;

/// Keys that work at once.
pub const KEYS_MAX: usize = 256;
/// Bytes of a person's name.
pub const PERSON_NAME_MAX: usize = 64;
/// Bytes of an HTTP request body.
pub const HTTP_BODY_BYTES_MAX: usize = 8 << 20;
/// Depth of a JSON document in a request.
pub const JSON_DEPTH_MAX: usize = 64;
/// Choices of one request.
pub const CHOICES_MAX: u32 = 16;
/// Stop strings of one request.
pub const STOP_STRINGS_MAX: usize = 16;
/// Bytes of one stop string.
pub const STOP_STRING_BYTES_MAX: usize = 256;

/// Positions in one page of the attention cache; also the block over which a softmax is taken.
pub const PAGE_POSITIONS: u32 = 64;
/// Most expert groups of a layer.
pub const EXPERT_GROUPS_MAX: u32 = 16;
/// Most head blocks of a model.
pub const HEAD_BLOCKS_MAX: u32 = 16;

/// Entries of a GGUF metadata table.
pub const GGUF_KEYS_MAX: u64 = 1 << 16;
/// Tensors in one model file.
pub const TENSORS_MAX: u64 = 1 << 20;
/// Elements of one metadata array.
pub const GGUF_ARRAY_MAX: u64 = 1 << 24;
/// Bytes of one metadata text.
pub const GGUF_TEXT_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a safetensors header.
pub const SAFETENSORS_HEADER_BYTES_MAX: u64 = 100 << 20;
/// Files of one model.
pub const MODEL_FILES_MAX: u32 = 1024;
/// Layers of one model.
pub const LAYERS_MAX: u32 = 1024;
/// Experts of one layer.
pub const EXPERTS_MAX: u32 = 4096;

/// Bytes of a piece of a shard: what is checked by hash, and lost at most when a transfer breaks off.
pub const PIECE_BYTES: u32 = 1 << 20;
/// Bytes of a shard catalogue.
pub const CATALOGUE_BYTES_MAX: usize = 64 << 20;
/// Shards of one model.
pub const SHARDS_MAX: usize = 32_768;
/// Byte ranges of all shards of one model.
pub const SHARD_RANGES_MAX: usize = 1 << 22;
