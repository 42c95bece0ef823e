//! The bytes of the protocol, written out: what is listed here never changes. The CRCs were computed with another implementation.

use apexkv_client::protocol::*;

fn request(command: Command, key: &[u8], value: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, command, key, value);
    bytes
}

#[test]
fn plain_requests() {
    assert_eq!(request(Command::Set, b"key", &[b"value"]), b"\x01\x03\0\0\0\x05\0\0\0keyvalue");
    assert_eq!(request(Command::Get, b"key", &[]), b"\x02\x03\0\0\0\0\0\0\0key");
    assert_eq!(request(Command::Del, b"key", &[]), b"\x03\x03\0\0\0\0\0\0\0key");
    assert_eq!(request(Command::Cas, b"k", &[&7u64.to_le_bytes(), b"v"]), b"\x04\x01\0\0\0\x09\0\0\0k\x07\0\0\0\0\0\0\0v");
    assert_eq!(request(Command::Getv, b"key", &[]), b"\x05\x03\0\0\0\0\0\0\0key");
    assert_eq!(request(Command::Scan, b"p", &[&[10, 0, 0, 0], &[1], b"p5"]), b"\x06\x01\0\0\0\x07\0\0\0p\x0a\0\0\0\x01p5");
    assert_eq!(request(Command::Ping, b"", &[b"hi"]), b"\x07\0\0\0\0\x02\0\0\0hi");
    assert_eq!(request(Command::Status, b"", &[]), b"\x08\0\0\0\0\0\0\0\0");
}

#[test]
fn an_extended_request() {
    let extension = Extension { request_id: 0x0102_0304_0506_0708, session: 0, sequence: 9, deadline_ms: 250, crc: 0 };
    let mut bytes = b"earlier".to_vec();
    encode_extended_request(&mut bytes, Command::Set, b"key", &[b"value"], extension);
    let mut expected = b"earlier\x81\x03\0\0\0\x05\0\0\0".to_vec();
    expected.extend_from_slice(b"\x08\x07\x06\x05\x04\x03\x02\x01\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\xfa\0\0\0");
    expected.extend_from_slice(&REQUEST_CRC.to_le_bytes());
    expected.extend_from_slice(b"keyvalue");
    assert_eq!(bytes, expected);

    let frame = &bytes[7..];
    let header = RequestHeader::parse(frame).expect("a whole header");
    assert_eq!((header.command, header.key_length, header.value_length), (Command::Set as u8, 3, 5));
    assert_eq!(header.extension, Some(Extension { crc: REQUEST_CRC, ..extension }));
    assert_eq!(header.frame_bytes(), frame.len());
    assert_eq!(request_crc(frame), REQUEST_CRC);
    for length in 0..EXTENDED_REQUEST_HEADER {
        assert_eq!(RequestHeader::parse(&frame[..length]), None, "{length} bytes");
        assert_eq!(RequestHeader::lengths(&frame[..length]).is_some(), length >= REQUEST_HEADER, "{length} bytes");
    }
}

#[test]
fn responses() {
    let mut bytes = Vec::new();
    encode_response(&mut bytes, Status::Ok, &[&42u64.to_le_bytes()], None);
    encode_response(&mut bytes, Status::NotLeader, &[b"b:", b"9002"], None);
    assert_eq!(bytes, b"\0\x08\0\0\0\x2a\0\0\0\0\0\0\0\x03\x06\0\0\0b:9002");
    let header = ResponseHeader::parse(&bytes[13..]).expect("a whole header");
    assert_eq!(header, ResponseHeader { status: Status::NotLeader, payload_length: 6, extended: None });

    let mut bytes = Vec::new();
    encode_response(&mut bytes, Status::Conflict, &[&7u64.to_le_bytes()], Some(0x0102_0304_0506_0708));
    let mut expected = b"\x85\x08\0\0\0\x08\x07\x06\x05\x04\x03\x02\x01".to_vec();
    expected.extend_from_slice(&RESPONSE_CRC.to_le_bytes());
    expected.extend_from_slice(b"\x07\0\0\0\0\0\0\0");
    assert_eq!(bytes, expected);
    assert_eq!(response_crc(&bytes), RESPONSE_CRC);
    for length in 0..EXTENDED_RESPONSE_HEADER {
        assert_eq!(ResponseHeader::parse(&bytes[..length]), None, "{length} bytes");
    }
    let header = ResponseHeader::parse(&bytes).expect("a whole header");
    assert_eq!(header.extended, Some((0x0102_0304_0506_0708, RESPONSE_CRC)));
    assert_eq!(header.header_bytes(), EXTENDED_RESPONSE_HEADER);
}

#[test]
fn bytes_and_names_of_commands_and_statuses() {
    let commands: Vec<Option<Command>> = (0..=10).map(Command::from_byte).collect();
    use Command::*;
    let known = [Set, Get, Del, Cas, Getv, Scan, Ping].map(Some);
    assert_eq!(commands[0], None);
    assert_eq!(commands[1..8], known);
    assert_eq!(commands[8..], [Some(Command::Status), Some(Backup), None]);
    let writes: Vec<u8> = (0..=255).filter(|byte| Command::from_byte(*byte).is_some_and(Command::is_write)).collect();
    assert_eq!(writes, [1, 3, 4]);

    let names: Vec<&str> = (0..=9).map(|byte| apexkv_client::protocol::Status::from_byte(byte).name()).collect();
    let expected = ["OK", "ERROR", "NOT_FOUND", "NOT_LEADER", "UNKNOWN", "CONFLICT", "BUSY", "BAD_REQUEST", "UNKNOWN", "UNKNOWN"];
    assert_eq!(names, expected);
}

const REQUEST_CRC: u32 = 0xb876289a;
const RESPONSE_CRC: u32 = 0xed1ff156;
