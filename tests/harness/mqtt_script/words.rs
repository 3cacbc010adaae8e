//! Packets of MQTT as lines of text, and lines as bytes: a second opinion on the protocol, which shares no code with the
//! program under test.
//!
//! ```text
//!   CONNECT v5 id=a clean=0 keep=30 session_expiry=600 rm=20     also user= pass=
//!   CONNACK present=1 rc=0x00 rm=20
//!   PUBLISH q2 id=7 dup=1 retain=0 topic=a/b message_expiry=9 payload={"v":1}      the payload is the rest of the line
//!   PUBLISH q2 id=7 v=1                    the same payload, with the usual topic, plant/a
//!   PUBACK 7    PUBREC 7    PUBREL 7 rc=0x92    PUBCOMP 7
//!   SUBSCRIBE 1 a/+=0x01 b=0x02            the byte is that of the options
//!   SUBACK 1 0x01 0x02
//!   UNSUBSCRIBE 2 a/+ b                    and the same for UNSUBACK
//!   PINGREQ    PINGRESP    DISCONNECT rc=0x8e    AUTH rc=0x18
//! ```
//!
//! What has a usual value may be left out when a line is written: it is there when one is read. So two lines mean the same
//! if they are the same after [`canonical`].

use std::fmt::Write as _;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1.
    V4,
    /// 5.
    V5,
}

impl Version {
    /// Both.
    pub(crate) const ALL: [Version; 2] = [Version::V4, Version::V5];

    /// Returns the value of the option `version`.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Version::V4 => "3.1.1",
            Version::V5 => "5",
        }
    }
}

/// Names of packets by their type.
const NAMES: [&str; 16] = [
    "RESERVED",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
];

/// How a property is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    One,
    Two,
    Four,
    Varint,
    Text,
}

/// Properties of MQTT 5; the user property (0x26), a pair, stands in lines as `user.<key>=<value>`.
const PROPERTIES: [(u8, &str, Kind); 26] = [
    (0x01, "format", Kind::One),
    (0x02, "message_expiry", Kind::Four),
    (0x03, "type", Kind::Text),
    (0x08, "response", Kind::Text),
    (0x09, "correlation", Kind::Text),
    (0x0B, "subscription", Kind::Varint),
    (0x11, "session_expiry", Kind::Four),
    (0x12, "assigned", Kind::Text),
    (0x13, "server_keep", Kind::Two),
    (0x15, "auth_method", Kind::Text),
    (0x16, "auth_data", Kind::Text),
    (0x17, "problem", Kind::One),
    (0x19, "response_info", Kind::One),
    (0x1A, "response_text", Kind::Text),
    (0x1C, "server", Kind::Text),
    (0x1F, "why", Kind::Text),
    (0x21, "rm", Kind::Two),
    (0x22, "alias_max", Kind::Two),
    (0x23, "alias", Kind::Two),
    (0x24, "max_qos", Kind::One),
    (0x25, "retain_available", Kind::One),
    (0x27, "max_packet", Kind::Four),
    (0x28, "wildcards", Kind::One),
    (0x29, "subscription_ids", Kind::One),
    (0x2A, "shared", Kind::One),
    (0x18, "will_delay", Kind::Four),
];

const USER_PROPERTY: u8 = 0x26;

/// The topic of a PUBLISH that names none.
pub(crate) const USUAL_TOPIC: &str = "plant/a";

/// Returns a line as it is when read from the wire.
pub(crate) fn canonical(version: Version, line: &str) -> String {
    let bytes = encode(version, line);
    let (read, length) = decode(version, &bytes).expect("a whole packet");
    assert_eq!(length, bytes.len(), "{line}");
    read
}

/// Returns a line as bytes. `hex 30 00` are the bytes themselves.
pub(crate) fn encode(version: Version, line: &str) -> Vec<u8> {
    let line = line.trim();
    if let Some(digits) = line.strip_prefix("hex ") {
        return digits.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hex digits")).collect();
    }
    let (line, payload) = match line.split_once(" payload=") {
        Some((line, payload)) => (line, payload),
        None => (line, ""),
    };
    let mut words = Words { version, words: line.split_whitespace().collect() };
    let name = words.words.remove(0);
    let kind = NAMES.iter().position(|known| *known == name).unwrap_or_else(|| panic!("no packet is called {name:?}"));
    let (mut flags, mut body) = (0u8, Vec::new());
    match name {
        "CONNECT" => words.connect(&mut body),
        "CONNACK" => {
            body.push(words.number("present", 0) as u8);
            body.push(words.number("rc", 0) as u8);
            words.properties(&mut body);
        }
        "PUBLISH" => {
            let qos: u8 = words.words.remove(0).strip_prefix('q').expect("q0, q1 or q2").parse().expect("a digit");
            flags = (words.number("dup", 0) as u8) << 3 | qos << 1 | words.number("retain", 0) as u8;
            let id = words.number("id", 0) as u16;
            let number = words.value("v").map(|v| format!("{{\"v\":{v}}}"));
            text(words.value("topic").unwrap_or(USUAL_TOPIC).as_bytes(), &mut body);
            if qos > 0 {
                body.extend(id.to_be_bytes());
            }
            words.properties(&mut body);
            body.extend(number.as_deref().unwrap_or(payload).as_bytes());
        }
        "PUBACK" | "PUBREC" | "PUBREL" | "PUBCOMP" => {
            flags = if name == "PUBREL" { 2 } else { 0 };
            body.extend(words.id().to_be_bytes());
            if version == Version::V5 && !words.words.is_empty() {
                body.push(words.number("rc", 0) as u8);
                words.properties(&mut body);
            }
        }
        "SUBSCRIBE" => {
            flags = 2;
            body.extend(words.id().to_be_bytes());
            words.properties(&mut body);
            for word in std::mem::take(&mut words.words) {
                let (filter, options) = word.rsplit_once('=').expect("filter=options");
                text(filter.as_bytes(), &mut body);
                body.push(parse_number(options) as u8);
            }
        }
        "UNSUBSCRIBE" => {
            flags = 2;
            body.extend(words.id().to_be_bytes());
            words.properties(&mut body);
            std::mem::take(&mut words.words).into_iter().for_each(|filter| text(filter.as_bytes(), &mut body));
        }
        "SUBACK" | "UNSUBACK" => {
            body.extend(words.id().to_be_bytes());
            words.properties(&mut body);
            body.extend(std::mem::take(&mut words.words).into_iter().map(|code| parse_number(code) as u8));
        }
        "DISCONNECT" | "AUTH" => {
            if version == Version::V5 && !words.words.is_empty() {
                body.push(words.number("rc", 0) as u8);
                words.properties(&mut body);
            }
        }
        "PINGREQ" | "PINGRESP" => {}
        _ => panic!("{name} is not written by these tests"),
    }
    assert!(words.words.is_empty(), "{name} has nothing called {:?}", words.words);
    let mut bytes = vec![(kind as u8) << 4 | flags];
    varint(body.len(), &mut bytes);
    bytes.append(&mut body);
    bytes
}

/// The words of a line that are not used yet.
struct Words<'a> {
    version: Version,
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn id(&mut self) -> u16 {
        self.words.remove(0).parse().expect("a packet id")
    }

    fn value(&mut self, name: &str) -> Option<&'a str> {
        let has_name = |word: &&str| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        let at = self.words.iter().position(has_name)?;
        Some(&self.words.remove(at)[name.len() + 1..])
    }

    fn number(&mut self, name: &str, usual: u32) -> u32 {
        self.value(name).map_or(usual, parse_number)
    }

    fn connect(&mut self, body: &mut Vec<u8>) {
        let (user, pass) = (self.value("user"), self.value("pass"));
        let level = self.words.remove(0);
        assert_eq!(level, if self.version == Version::V4 { "v4" } else { "v5" }, "the version of the link");
        text(b"MQTT", body);
        body.push(if self.version == Version::V4 { 4 } else { 5 });
        let clean = self.number("clean", 0) as u8;
        body.push(clean << 1 | u8::from(user.is_some()) << 7 | u8::from(pass.is_some()) << 6);
        body.extend((self.number("keep", 0) as u16).to_be_bytes());
        let id = self.value("id").unwrap_or_default();
        self.properties(body);
        for field in [Some(id), user, pass].into_iter().flatten() {
            text(field.as_bytes(), body);
        }
    }

    /// Takes all words that are properties; nothing in 3.1.1, which has none.
    fn properties(&mut self, body: &mut Vec<u8>) {
        if self.version == Version::V4 {
            return;
        }
        let mut all = Vec::new();
        self.words.retain(|word| {
            let Some((name, value)) = word.split_once('=') else { return true };
            if let Some(key) = name.strip_prefix("user.") {
                all.push(USER_PROPERTY);
                text(key.as_bytes(), &mut all);
                text(value.as_bytes(), &mut all);
                return false;
            }
            let Some((id, _, kind)) = PROPERTIES.iter().find(|(_, known, _)| *known == name) else { return true };
            all.push(*id);
            match kind {
                Kind::One => all.push(parse_number(value) as u8),
                Kind::Two => all.extend((parse_number(value) as u16).to_be_bytes()),
                Kind::Four => all.extend(parse_number(value).to_be_bytes()),
                Kind::Varint => varint(parse_number(value) as usize, &mut all),
                Kind::Text => text(value.as_bytes(), &mut all),
            }
            false
        });
        varint(all.len(), body);
        body.append(&mut all);
    }
}

fn parse_number(text: &str) -> u32 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{text:?} is no number"))
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(u16::try_from(bytes.len()).expect("a short text").to_be_bytes());
    out.extend(bytes);
}

fn varint(mut number: usize, out: &mut Vec<u8>) {
    loop {
        let byte = (number % 128) as u8;
        number /= 128;
        out.push(if number > 0 { byte | 0x80 } else { byte });
        if number == 0 {
            return;
        }
    }
}

/// Returns the first packet as a line, and its length; `None` if it is not all there.
pub(crate) fn decode(version: Version, bytes: &[u8]) -> Option<(String, usize)> {
    let mut reader = Reader(bytes);
    let first = reader.one()?;
    let length = reader.varint()?;
    let head = bytes.len() - reader.0.len();
    if reader.0.len() < length {
        return None;
    }
    let body = Reader(&reader.0[..length]);
    let line = body.line(version, first).unwrap_or_else(|| panic!("a packet that ends too soon: {bytes:02x?}"));
    Some((line, head + length))
}

/// Returns the version that the first packet of a connection asks for; `None` if it is not all there.
pub(crate) fn version_asked(bytes: &[u8]) -> Option<Version> {
    let mut reader = Reader(bytes);
    let first = reader.one()?;
    assert_eq!(first, 0x10, "a connection begins with CONNECT");
    reader.varint()?;
    let name = reader.text()?;
    assert_eq!(name, "MQTT");
    match reader.one()? {
        4 => Some(Version::V4),
        5 => Some(Version::V5),
        other => panic!("CONNECT with version {other}"),
    }
}

/// Bytes that are not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn one(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    fn two(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().expect("two bytes")))
    }

    fn four(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn varint(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.one()?;
            number |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        panic!("a length of five bytes")
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(self.two()?);
        Some(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn line(mut self, version: Version, first: u8) -> Option<String> {
        let name = NAMES[usize::from(first >> 4)];
        let mut line = name.to_owned();
        let mut word = |word: String| {
            line.push(' ');
            line.push_str(&word);
        };
        match name {
            "CONNECT" => {
                self.text()?;
                word(if self.one()? == 4 { "v4".to_owned() } else { "v5".to_owned() });
                let flags = self.one()?;
                let keep = self.two()?;
                let properties = self.properties(version)?;
                word(format!("id={}", self.text()?));
                word(format!("clean={} keep={keep}{properties}", flags >> 1 & 1));
                for (name, bit) in [("user", 0x80), ("pass", 0x40)] {
                    if flags & bit != 0 {
                        word(format!("{name}={}", self.text()?));
                    }
                }
            }
            "CONNACK" => {
                word(format!("present={} rc={:#04x}", self.one()?, self.one()?));
                word(self.properties(version)?.trim_start().to_owned());
            }
            "PUBLISH" => {
                let (dup, qos, retain) = (first >> 3 & 1, first >> 1 & 3, first & 1);
                let topic = self.text()?;
                let id = if qos > 0 { format!(" id={}", self.two()?) } else { String::new() };
                let properties = self.properties(version)?;
                word(format!("q{qos}{id} dup={dup} retain={retain} topic={topic}{properties}"));
                word(format!("payload={}", String::from_utf8_lossy(self.0)));
            }
            "PUBACK" | "PUBREC" | "PUBREL" | "PUBCOMP" => {
                word(self.two()?.to_string());
                self.reason(version, &mut word)?;
            }
            "DISCONNECT" | "AUTH" => self.reason(version, &mut word)?,
            "SUBSCRIBE" => {
                word(format!("{}{}", self.two()?, self.properties(version)?));
                while !self.0.is_empty() {
                    word(format!("{}={:#04x}", self.text()?, self.one()?));
                }
            }
            "UNSUBSCRIBE" => {
                word(format!("{}{}", self.two()?, self.properties(version)?));
                while !self.0.is_empty() {
                    word(self.text()?);
                }
            }
            "SUBACK" | "UNSUBACK" => {
                word(format!("{}{}", self.two()?, self.properties(version)?));
                self.0.iter().for_each(|code| word(format!("{code:#04x}")));
            }
            _ => {}
        }
        Some(line.trim_end().to_owned())
    }

    /// A reason that is "success" may be left out, and is not told.
    fn reason(&mut self, version: Version, word: &mut impl FnMut(String)) -> Option<()> {
        if version == Version::V4 || self.0.is_empty() {
            return Some(());
        }
        let code = self.one()?;
        if code != 0 {
            word(format!("rc={code:#04x}"));
        }
        if !self.0.is_empty() {
            word(self.properties(version)?.trim_start().to_owned());
        }
        Some(())
    }

    fn properties(&mut self, version: Version) -> Option<String> {
        let mut line = String::new();
        if version == Version::V4 {
            return Some(line);
        }
        let length = self.varint()?;
        let mut inside = Reader(self.take(length)?);
        while !inside.0.is_empty() {
            let id = inside.one()?;
            if id == USER_PROPERTY {
                let _ = write!(line, " user.{}={}", inside.text()?, inside.text()?);
                continue;
            }
            let (_, name, kind) =
                PROPERTIES.iter().find(|(known, ..)| *known == id).unwrap_or_else(|| panic!("property {id:#04x}"));
            let value = match kind {
                Kind::One => inside.one()?.to_string(),
                Kind::Two => inside.two()?.to_string(),
                Kind::Four => inside.four()?.to_string(),
                Kind::Varint => inside.varint()?.to_string(),
                Kind::Text => inside.text()?,
            };
            let _ = write!(line, " {name}={value}");
        }
        Some(line)
    }
}

#[test]
fn lines_are_the_bytes_that_the_specification_prints() {
    for (version, line, bytes) in [
        (Version::V4, "PUBACK 7", "40 02 00 07"),
        (Version::V5, "PUBREL 7", "62 02 00 07"),
        (Version::V5, "PUBREL 258 rc=0x92", "62 04 01 02 92 00"),
        (Version::V4, "CONNACK present=1", "20 02 01 00"),
        (Version::V5, "CONNACK present=0 rm=20", "20 06 00 00 03 21 00 14"),
        (Version::V4, "PUBLISH q0 topic=a/b payload=x y", "30 08 00 03 61 2f 62 78 20 79"),
        (Version::V5, "PUBLISH q2 id=1 dup=1 topic=a message_expiry=5", "3c 0b 00 01 61 00 01 05 02 00 00 00 05"),
        (Version::V5, "SUBACK 1 0x01", "90 04 00 01 00 01"),
        (Version::V5, "UNSUBSCRIBE 1 a", "a2 06 00 01 00 00 01 61"),
        (Version::V5, "UNSUBACK 1 0x11", "b0 04 00 01 00 11"),
        (Version::V5, "DISCONNECT rc=0x8e", "e0 02 8e 00"),
        (Version::V4, "CONNECT v4 id=ab clean=1 keep=30", "10 0e 00 04 4d 51 54 54 04 02 00 1e 00 02 61 62"),
    ] {
        assert_eq!(encode(version, line), encode(version, &format!("hex {bytes}")), "{line}");
        assert_eq!(canonical(version, &canonical(version, line)), canonical(version, line));
    }
    let long = format!("PUBLISH q1 id=3 topic=a payload={}", "x".repeat(20_000));
    let bytes = encode(Version::V5, &long);
    assert_eq!(decode(Version::V5, &bytes[..bytes.len() - 1]), None);
    assert_eq!(decode(Version::V5, &bytes).expect("a packet").1, bytes.len());
}
