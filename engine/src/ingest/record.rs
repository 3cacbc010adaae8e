//! The records of the log, and their bytes.
//!
//! ```text
//!   Open      1, partition u32, source text, name text
//!   Messages  2, partition u32, arrival i64, first u64, count u32, count x (topic u32, payload u32), the bytes of each
//!   Range     3, partition u32, arrival i64, first u64, rows u64, start u64, end u64, checksum u32
//!   End       4, partition u32
//!   Seal      5, epoch u64, now i64, checkpoint u8 (0 or 1)
//!   Noted     6, partition u32, arrival i64, first u64, count u32, notes u32, count x (topic u32, payload u32, attributes u32),
//!                notes x (key u32, value u32), the bytes of each
//!
//!   text      length u32, UTF-8
//! ```
//!
//! The lengths of all messages stand before their bytes, so that they are checked once, and read in one run. Noted is what
//! Messages becomes when there is a note, or a message with attributes: the others do not pay for them.

use bytes::Bytes;

use crate::epoch::Epoch;
use crate::source::{Message, Note, Offset};

const OPEN: u8 = 1;
const MESSAGES: u8 = 2;
const RANGE: u8 = 3;
const END: u8 = 4;
const SEAL: u8 = 5;
const NOTED: u8 = 6;

/// Bytes in front of the lengths of a Messages record: kind, partition, arrival, first, count.
const MESSAGES_HEAD_BYTES: usize = 1 + 4 + 8 + 8 + 4;
/// Bytes in front of the lengths of a Noted record: the same, and the count of notes.
const NOTED_HEAD_BYTES: usize = MESSAGES_HEAD_BYTES + 4;
/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// The number of a partition within its log: how many were declared before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Declares a partition. Ids are dense: the n-th declaration of a log has id n - 1.
    Open {
        /// Its id from now on.
        partition: PartitionId,
        /// The source it belongs to.
        source: String,
        /// Its name within the source.
        name: String,
    },
    /// Input that cannot be read again.
    Messages {
        /// Where it came from.
        partition: PartitionId,
        /// When it arrived: microseconds since 1970, UTC.
        arrival_us: i64,
        /// Offset of the first message.
        first: Offset,
        /// The messages themselves, undecoded.
        messages: Vec<Message>,
        /// What the source must know again.
        notes: Vec<Note>,
    },
    /// Input that its source can read again.
    Range {
        /// Where it came from.
        partition: PartitionId,
        /// When it arrived: microseconds since 1970, UTC.
        arrival_us: i64,
        /// Offset of the first row.
        first: Offset,
        /// How many offsets it takes.
        rows: u64,
        /// First position, in the source's own unit.
        start: u64,
        /// Position after the last.
        end: u64,
        /// Checksum over the data, by the source's own rule.
        checksum: u32,
    },
    /// A partition has ended for good.
    End {
        /// Which one.
        partition: PartitionId,
    },
    /// Ends an epoch: everything since the previous Seal belongs to it.
    Seal {
        /// The epoch; the first Seal of a log has [`Epoch::FIRST`], each further one the next.
        epoch: Epoch,
        /// When it ended: microseconds since 1970, UTC. Decides which partitions are idle.
        now_us: i64,
        /// Whether a checkpoint is made at its end.
        checkpoint: bool,
    },
}

impl Record {
    /// Returns the bytes of the record's body. A record over [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX) cannot be
    /// appended.
    pub fn encoded_len(&self) -> usize {
        match self {
            Record::Open { source, name, .. } => 1 + 4 + (4 + source.len()) + (4 + name.len()),
            Record::Messages { messages, notes, .. } => {
                let bytes: usize = messages.iter().map(Message::byte_count).sum();
                if !is_noted(messages, notes) {
                    return MESSAGES_HEAD_BYTES + messages.len() * 2 * LENGTH_BYTES + bytes;
                }
                let note_bytes: usize = notes.iter().map(Note::byte_count).sum();
                let lengths = messages.len() * 3 + notes.len() * 2;
                NOTED_HEAD_BYTES + lengths * LENGTH_BYTES + bytes + note_bytes
            }
            Record::Range { .. } => 1 + 4 + 8 + 8 + 8 + 8 + 8 + 4,
            Record::End { .. } => 1 + 4,
            Record::Seal { .. } => 1 + 8 + 8 + 1,
        }
    }

    /// Appends the body. It must not be longer than what fits in 32 bits.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Open { partition, source, name } => {
                out.push(OPEN);
                out.extend_from_slice(&partition.0.to_le_bytes());
                for text in [source, name] {
                    out.extend_from_slice(&len_u32(text.len()).to_le_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            }
            Record::Messages { partition, arrival_us, first, messages, notes } => {
                let noted = is_noted(messages, notes);
                out.push(if noted { NOTED } else { MESSAGES });
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&arrival_us.to_le_bytes());
                out.extend_from_slice(&first.0.to_le_bytes());
                out.extend_from_slice(&len_u32(messages.len()).to_le_bytes());
                if noted {
                    encode_noted(messages, notes, out);
                    return;
                }
                for Message { topic, payload, .. } in messages {
                    let lengths = u64::from(len_u32(topic.len())) | u64::from(len_u32(payload.len())) << 32;
                    out.extend_from_slice(&lengths.to_le_bytes());
                }
                for Message { topic, payload, .. } in messages {
                    out.extend_from_slice(topic);
                    out.extend_from_slice(payload);
                }
            }
            Record::Range { partition, arrival_us, first, rows, start, end, checksum } => {
                out.push(RANGE);
                out.extend_from_slice(&partition.0.to_le_bytes());
                out.extend_from_slice(&arrival_us.to_le_bytes());
                for number in [first.0, *rows, *start, *end] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(&checksum.to_le_bytes());
            }
            Record::End { partition } => {
                out.push(END);
                out.extend_from_slice(&partition.0.to_le_bytes());
            }
            Record::Seal { epoch, now_us, checkpoint } => {
                out.push(SEAL);
                out.extend_from_slice(&epoch.0.to_le_bytes());
                out.extend_from_slice(&now_us.to_le_bytes());
                out.push(u8::from(*checkpoint));
            }
        }
    }

    /// Reads a body whose checksum was right. Messages share its memory.
    ///
    /// Allocates at most twelve times the length of `body`, whatever it holds.
    pub(super) fn decode(body: &Bytes) -> Result<Record, &'static str> {
        let mut fields = Fields { body, at: 0 };
        let record = match fields.u8()? {
            OPEN => Record::Open { partition: fields.partition()?, source: fields.text()?, name: fields.text()? },
            MESSAGES => Record::Messages {
                partition: fields.partition()?,
                arrival_us: fields.i64()?,
                first: Offset(fields.u64()?),
                messages: fields.messages()?,
                notes: Vec::new(),
            },
            NOTED => {
                let (partition, arrival_us, first) = (fields.partition()?, fields.i64()?, Offset(fields.u64()?));
                let (messages, notes) = fields.noted()?;
                if !is_noted(&messages, &notes) {
                    return Err("a record of notes without any");
                }
                Record::Messages { partition, arrival_us, first, messages, notes }
            }
            RANGE => Record::Range {
                partition: fields.partition()?,
                arrival_us: fields.i64()?,
                first: Offset(fields.u64()?),
                rows: fields.u64()?,
                start: fields.u64()?,
                end: fields.u64()?,
                checksum: fields.u32()?,
            },
            END => Record::End { partition: fields.partition()? },
            SEAL => Record::Seal { epoch: Epoch(fields.u64()?), now_us: fields.i64()?, checkpoint: fields.flag()? },
            _ => return Err("a record of an unknown kind"),
        };
        if fields.at == body.len() { Ok(record) } else { Err("a record that is longer than its fields") }
    }
}

fn is_noted(messages: &[Message], notes: &[Note]) -> bool {
    !notes.is_empty() || messages.iter().any(|message| !message.attributes.is_empty())
}

fn encode_noted(messages: &[Message], notes: &[Note], out: &mut Vec<u8>) {
    out.extend_from_slice(&len_u32(notes.len()).to_le_bytes());
    let lengths = messages.iter().flat_map(|message| [&message.topic, &message.payload, &message.attributes]);
    for field in lengths.chain(notes.iter().flat_map(|note| [&note.key, &note.value])) {
        out.extend_from_slice(&len_u32(field.len()).to_le_bytes());
    }
    for Message { topic, payload, attributes } in messages {
        out.extend_from_slice(topic);
        out.extend_from_slice(payload);
        out.extend_from_slice(attributes);
    }
    for Note { key, value } in notes {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
}

/// Reads one field after the other; every length is checked before it is used.
struct Fields<'a> {
    body: &'a Bytes,
    at: usize,
}

impl Fields<'_> {
    /// Returns where the next `len` bytes start.
    fn skip(&mut self, len: usize) -> Result<usize, &'static str> {
        let start = self.at;
        if len > self.body.len() - start {
            return Err("a record that is shorter than its fields");
        }
        self.at = start + len;
        Ok(start)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let start = self.skip(N)?;
        Ok(std::array::from_fn(|idx| self.body[start + idx]))
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, &'static str> {
        self.take().map(i64::from_le_bytes)
    }

    fn partition(&mut self) -> Result<PartitionId, &'static str> {
        self.u32().map(PartitionId)
    }

    fn flag(&mut self) -> Result<bool, &'static str> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("a flag that is neither 0 nor 1"),
        }
    }

    fn text(&mut self) -> Result<String, &'static str> {
        let len = self.u32()? as usize;
        let start = self.skip(len)?;
        let text = std::str::from_utf8(&self.body[start..start + len]).map_err(|_| "a text that is not UTF-8")?;
        Ok(text.to_owned())
    }

    fn messages(&mut self) -> Result<Vec<Message>, &'static str> {
        let count = self.u32()? as usize;
        let lengths_len = count.checked_mul(2 * LENGTH_BYTES).ok_or("a count of messages without limit")?;
        // A count that does not fit is refused here, before anything is allocated for it.
        let lengths_start = self.skip(lengths_len)?;
        let body = self.body;
        let mut messages = Vec::with_capacity(count);
        for lengths in body[lengths_start..lengths_start + lengths_len].chunks_exact(2 * LENGTH_BYTES) {
            let lengths = u64::from_le_bytes(std::array::from_fn(|idx| lengths[idx]));
            let (topic_len, payload_len) = (lengths as u32 as usize, (lengths >> 32) as usize);
            let topic = self.skip(topic_len)?;
            let payload = self.skip(payload_len)?;
            messages
                .push(Message::new(body.slice(topic..topic + topic_len), body.slice(payload..payload + payload_len)));
        }
        Ok(messages)
    }

    fn noted(&mut self) -> Result<(Vec<Message>, Vec<Note>), &'static str> {
        let (message_count, note_count) = (self.u32()? as usize, self.u32()? as usize);
        let lengths = message_count.checked_mul(3).zip(note_count.checked_mul(2));
        let lengths = lengths.and_then(|(messages, notes)| messages.checked_add(notes)?.checked_mul(LENGTH_BYTES));
        let lengths_len = lengths.ok_or("a count of messages without limit")?;
        let start = self.skip(lengths_len)?;
        let mut lengths = Fields { body: self.body, at: start };
        let body = self.body;
        let mut field = |fields: &mut Self| -> Result<Bytes, &'static str> {
            let len = lengths.u32()? as usize;
            let start = fields.skip(len)?;
            Ok(body.slice(start..start + len))
        };
        let mut messages = Vec::with_capacity(message_count);
        for _ in 0..message_count {
            messages.push(Message { topic: field(self)?, payload: field(self)?, attributes: field(self)? });
        }
        let mut notes = Vec::with_capacity(note_count);
        for _ in 0..note_count {
            notes.push(Note { key: field(self)?, value: field(self)? });
        }
        Ok((messages, notes))
    }
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("the caller checked that the record is not longer than 64 MiB")
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::super::tests::random_record;
    use super::*;

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    }

    #[test]
    fn decode_gives_back_what_encode_took() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..2_000 {
            let record = random_record(&mut random);
            let bytes = encoded(&record);
            assert_eq!(bytes.len(), record.encoded_len());
            assert_eq!(Record::decode(&bytes.into()).unwrap(), record);
        }
    }

    #[test]
    fn the_bytes_of_each_kind_stay_as_they_are() {
        let hex = |record: Record| encoded(&record).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let partition = PartitionId(7);
        let open = Record::Open { partition, source: "s".to_owned(), name: "p0".to_owned() };
        assert_eq!(hex(open), "0107000000010000007302000000".to_owned() + "7030");
        let messages = vec![Message::new("t", "{}")];
        assert_eq!(
            hex(Record::Messages { partition, arrival_us: -1, first: Offset(258), messages, notes: Vec::new() }),
            "0207000000ffffffffffffffff0201000000000000010000000100000002000000747b7d"
        );
        let messages = vec![Message { attributes: Bytes::from_static(b"a"), ..Message::new("t", "{}") }];
        let notes = vec![Note::new("k", "v"), Note::forget("x")];
        assert_eq!(
            hex(Record::Messages { partition, arrival_us: -1, first: Offset(258), messages, notes }),
            "0607000000ffffffffffffffff02010000000000000100000002000000010000000200000001000000\
             01000000010000000100000000000000747b7d616b7678"
        );
        let range =
            Record::Range { partition, arrival_us: 1, first: Offset(2), rows: 3, start: 4, end: 5, checksum: 6 };
        assert_eq!(
            hex(range),
            "03070000000100000000000000020000000000000003000000000000000400000000000000050000000000000006000000"
        );
        assert_eq!(hex(Record::End { partition }), "0407000000");
        let seal = Record::Seal { epoch: Epoch(9), now_us: 10, checkpoint: true };
        assert_eq!(hex(seal), "0509000000000000000a0000000000000001");
    }

    #[test]
    fn messages_share_the_memory_of_the_body() {
        let messages = vec![Message::new("topic", "payload")];
        let record = Record::Messages {
            partition: PartitionId(0),
            arrival_us: 0,
            first: Offset(0),
            messages,
            notes: Vec::new(),
        };
        let body = Bytes::from(encoded(&record));
        let Record::Messages { messages, .. } = Record::decode(&body).unwrap() else { panic!("not messages") };
        assert!(body.as_ptr_range().contains(&messages[0].payload.as_ptr()));
    }

    #[test]
    fn no_bytes_panic_the_decoder_and_what_it_takes_is_canonical() {
        let mut random = SmallRng::seed_from_u64(2);
        let mut taken = 0;
        for _ in 0..50_000 {
            let mut bytes = encoded(&random_record(&mut random));
            match random.random_range(0..4) {
                0 => bytes = (0..random.random_range(0..100)).map(|_| random.random()).collect(),
                1 => bytes.truncate(random.random_range(0..bytes.len())),
                2 => bytes.extend((0..random.random_range(1..9)).map(|_| random.random::<u8>())),
                _ => {
                    for _ in 0..random.random_range(1..4) {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] = if random.random() { random.random() } else { 0xff };
                    }
                }
            }
            if let Ok(record) = Record::decode(&Bytes::from(bytes.clone())) {
                assert_eq!(encoded(&record), bytes);
                taken += 1;
            }
        }
        assert!(taken > 1_000, "only {taken} of the mutations are records: the test tests too little");
    }

    #[test]
    fn counts_that_lie_allocate_nothing() {
        let mut bytes = encoded(&Record::Messages {
            partition: PartitionId(0),
            arrival_us: 0,
            first: Offset(0),
            messages: vec![Message::default(); 3],
            notes: Vec::new(),
        });
        bytes[MESSAGES_HEAD_BYTES - 4..MESSAGES_HEAD_BYTES].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Record::decode(&bytes.into()), Err("a record that is shorter than its fields"));
        let mut bytes = encoded(&Record::Messages {
            partition: PartitionId(0),
            arrival_us: 0,
            first: Offset(0),
            messages: Vec::new(),
            notes: vec![Note::new("key", "value")],
        });
        bytes[NOTED_HEAD_BYTES - 4..NOTED_HEAD_BYTES].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Record::decode(&bytes.into()), Err("a record that is shorter than its fields"));
    }
}
