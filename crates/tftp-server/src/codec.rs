//! TFTP packets (RFC 1350 section 5, RFC 2347).

/// Error codes (RFC 1350 appendix, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// See the message.
    NotDefined,
    /// No such file.
    FileNotFound,
    /// Not allowed.
    AccessViolation,
    /// Not for a read-only server.
    IllegalOperation,
    /// A packet of nobody's transfer.
    UnknownTransferId,
    /// The client does not want what was negotiated.
    OptionRefused,
    /// Any other.
    Other(u16),
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::NotDefined => 0,
            Self::FileNotFound => 1,
            Self::AccessViolation => 2,
            Self::IllegalOperation => 4,
            Self::UnknownTransferId => 5,
            Self::OptionRefused => 8,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u16) -> Self {
        match code {
            0 => Self::NotDefined,
            1 => Self::FileNotFound,
            2 => Self::AccessViolation,
            4 => Self::IllegalOperation,
            5 => Self::UnknownTransferId,
            8 => Self::OptionRefused,
            other => Self::Other(other),
        }
    }
}

/// A request to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The file, as the client names it; bytes that are not UTF-8 are replaced.
    pub file: String,
    /// The mode, lower case.
    pub mode: String,
    /// Options with lower-case names, in order.
    pub options: Vec<(String, String)>,
    /// The length of the packet: what is answered before the client has proved its address is measured by it.
    pub length: usize,
}

/// A packet of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// RRQ.
    Read(ReadRequest),
    /// WRQ.
    Write,
    /// ACK of a block.
    Ack(u16),
    /// ERROR.
    Error(ErrorCode, String),
}

/// How many options of a request are looked at; there are four that mean anything here.
const MAX_OPTIONS: usize = 16;

impl Packet {
    /// Reads a client's packet. `None` for what no client sends to a read-only server.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let [high, low, rest @ ..] = bytes else { return None };
        match u16::from_be_bytes([*high, *low]) {
            1 => {
                let mut texts = rest.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
                let (file, mode) = (texts.next()?, texts.next()?.to_ascii_lowercase());
                let mut options = Vec::new();
                while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                    if options.len() == MAX_OPTIONS {
                        break;
                    }
                    options.push((name.to_ascii_lowercase(), value));
                }
                Some(Self::Read(ReadRequest { file, mode, options, length: bytes.len() }))
            }
            2 => Some(Self::Write),
            4 => Some(Self::Ack(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]))),
            5 => {
                let code = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
                let text = rest.get(2..).unwrap_or_default();
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                Some(Self::Error(ErrorCode::from_code(code), String::from_utf8_lossy(text).into_owned()))
            }
            _ => None,
        }
    }
}

/// What comes before the bytes of a block.
pub(crate) const DATA_HEADER: usize = 4;

/// Writes the header of a DATA packet.
pub(crate) fn data_header(block: u64, out: &mut [u8]) {
    #[allow(clippy::cast_possible_truncation, reason = "block numbers roll over, to 0 as every known client does")]
    let [high, low] = (block as u16).to_be_bytes();
    out.copy_from_slice(&[0, 3, high, low]);
}

/// An ERROR packet.
pub fn error(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut out = vec![0, 5];
    out.extend(code.code().to_be_bytes());
    out.extend(message.bytes().filter(|byte| *byte != 0));
    out.push(0);
    out
}

/// An OACK packet (RFC 2347).
pub fn option_ack(options: &[(&'static str, String)]) -> Vec<u8> {
    let mut out = vec![0, 6];
    for (name, value) in options {
        out.extend(name.bytes());
        out.push(0);
        out.extend(value.bytes());
        out.push(0);
    }
    out
}
