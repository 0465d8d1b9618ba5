internal import CZlib

/// The records of a zip archive as torch writes it: stored, not compressed, each once.
///
/// Stricter than a zip reader: local and central headers must agree, records may not overlap or lie outside, and nothing is
/// decompressed, so that no two readers can see different contents.
/// Source: PKWARE APPNOTE.TXT 4.3, 4.4, 4.5.3 (ZIP64); caffe2/serialize/inline_container.cc.
struct ZipArchive {
  private let file: OpenFile
  /// Bytes of each record's data by name.
  let records: [ExactName: Range<Int>]
  private let checksums: [ExactName: UInt32]

  private static let recordLimit = 10_000_000

  /// Throws `.archive` with the reason.
  init(_ file: OpenFile) throws(TensorFileError) {
    self.file = file
    let count = try file.byteCount()
    let reader = Reader(file: file, byteCount: count)
    let end = try reader.endRecord()
    guard end.records <= Self.recordLimit, end.size <= count, end.offset <= count - end.size else {
      throw reader.failure("its directory lies outside the file")
    }
    let directory = try file.bytes(end.offset..<end.offset + end.size)
    var records: [ExactName: Range<Int>] = [:]
    var checksums: [ExactName: UInt32] = [:]
    var position = 0
    for _ in 0..<end.records {
      let entry = try reader.entry(directory, &position)
      let range = try reader.data(of: entry, before: end.offset)
      guard records.updateValue(range, forKey: entry.name) == nil else {
        throw reader.failure("'\(entry.name)' is there twice")
      }
      checksums[entry.name] = entry.checksum
    }
    guard position == directory.count else { throw reader.failure("its directory has bytes to spare") }
    var last = 0
    for range in records.values.sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }) {
      guard range.lowerBound >= last else { throw reader.failure("records overlap") }
      last = range.upperBound
    }
    self.records = records
    self.checksums = checksums
  }

  /// A small record's bytes, its checksum verified. Throws `.archive`, `.shortRead`, `.system`.
  func bytes(_ name: String, limit: Int) throws(TensorFileError) -> [UInt8] {
    guard let range = records[name] else { throw .archive(path: file.path, reason: "no record '\(name)'") }
    guard range.count <= limit else {
      throw .archive(path: file.path, reason: "record '\(name)' has \(range.count) bytes; at most \(limit) are read")
    }
    let bytes = try file.bytes(range)
    // Soundness: zlib reads just the array's bytes.
    let found = bytes.withUnsafeBufferPointer { UInt32(crc32_z(0, $0.baseAddress, $0.count)) }
    guard found == checksums[name] else {
      throw .archive(path: file.path, reason: "record '\(name)' does not have its checksum: the file is damaged")
    }
    return bytes
  }
}

private struct Reader {
  let file: OpenFile
  let byteCount: Int

  struct Entry {
    let name: String
    let flags: Int
    let checksum: UInt32
    let size: Int
    let offset: Int
  }

  func failure(_ reason: String) -> TensorFileError { .archive(path: file.path, reason: reason) }

  private func number(_ bytes: [UInt8], _ start: Int, _ width: Int) -> Int? {
    guard start >= 0, width <= bytes.count - start else { return nil }
    var value = UInt64(0)
    for index in (0..<width).reversed() { value = value << 8 | UInt64(bytes[start + index]) }
    return Int(exactly: value)
  }

  /// The directory's place, from the end record or its 64-bit form.
  func endRecord() throws(TensorFileError) -> (records: Int, size: Int, offset: Int) {
    guard byteCount >= 22 else { throw failure("too short for a zip archive") }
    let tail = try file.bytes(byteCount - 22..<byteCount)
    guard number(tail, 0, 4) == 0x0605_4B50, number(tail, 20, 2) == 0 else {
      throw failure(
        "it does not end as a zip archive without a comment does; the file is cut or has bytes after its end")
    }
    var (records, size, offset) = (number(tail, 10, 2) ?? 0, number(tail, 12, 4) ?? 0, number(tail, 16, 4) ?? 0)
    if records == 0xFFFF || size == 0xFFFF_FFFF || offset == 0xFFFF_FFFF || byteCount >= 22 + 20 + 56 {
      let locator = byteCount >= 42 ? try file.bytes(byteCount - 42..<byteCount - 22) : []
      if number(locator, 0, 4) == 0x0706_4B50 {
        guard let place = number(locator, 8, 8), place <= byteCount - 42 - 56 else {
          throw failure("a damaged end record")
        }
        let long = try file.bytes(place..<place + 56)
        guard number(long, 0, 4) == 0x0606_4B50, let r = number(long, 32, 8), let s = number(long, 40, 8),
          let o = number(long, 48, 8)
        else { throw failure("a damaged end record") }
        (records, size, offset) = (r, s, o)
      }
    }
    return (records, size, offset)
  }

  func entry(_ bytes: [UInt8], _ position: inout Int) throws(TensorFileError) -> Entry {
    let start = position
    guard number(bytes, start, 4) == 0x0201_4B50, let flags = number(bytes, start + 8, 2),
      let method = number(bytes, start + 10, 2), let checksum = number(bytes, start + 16, 4),
      var packed = number(bytes, start + 20, 4), var size = number(bytes, start + 24, 4),
      let nameLength = number(bytes, start + 28, 2), let extraLength = number(bytes, start + 30, 2),
      let commentLength = number(bytes, start + 32, 2), var offset = number(bytes, start + 42, 4),
      start + 46 + nameLength + extraLength + commentLength <= bytes.count
    else { throw failure("its directory is damaged") }
    let nameBytes = bytes[start + 46..<start + 46 + nameLength]
    guard let name = String(validating: nameBytes, as: UTF8.self), !name.isEmpty else {
      throw failure("a record whose name is no text")
    }
    var extra = start + 46 + nameLength
    let extraEnd = extra + extraLength
    while extra + 4 <= extraEnd, let tag = number(bytes, extra, 2), let length = number(bytes, extra + 2, 2) {
      if tag == 1 {
        var place = extra + 4
        func long() -> Int? {
          defer { place += 8 }
          return place + 8 <= extraEnd ? number(bytes, place, 8) : nil
        }
        if size == 0xFFFF_FFFF { size = long() ?? -1 }
        if packed == 0xFFFF_FFFF { packed = long() ?? -1 }
        if offset == 0xFFFF_FFFF { offset = long() ?? -1 }
      }
      extra += 4 + length
    }
    // Encrypted (1), patched (0x20), strongly encrypted (0x40).
    guard flags & 0x61 == 0 else { throw failure("record '\(name)' is encrypted or patched") }
    guard method == 0 else { throw failure("record '\(name)' is compressed; torch stores records as they are") }
    guard packed == size, size >= 0, offset >= 0 else { throw failure("record '\(name)' has two sizes") }
    position = extraEnd + commentLength
    return Entry(name: name, flags: flags, checksum: UInt32(checksum), size: size, offset: offset)
  }

  /// Where a record's data lies, from its local header, which must agree with the directory.
  func data(of entry: Entry, before limit: Int) throws(TensorFileError) -> Range<Int> {
    guard entry.offset <= limit - 30 else { throw failure("record '\(entry.name)' lies outside the file") }
    let header = try file.bytes(entry.offset..<entry.offset + 30)
    guard number(header, 0, 4) == 0x0403_4B50, number(header, 6, 2) == entry.flags, number(header, 8, 2) == 0,
      let nameLength = number(header, 26, 2), let extraLength = number(header, 28, 2)
    else { throw failure("record '\(entry.name)' has another local header than the directory says") }
    let start = entry.offset + 30 + nameLength + extraLength
    guard start <= limit, entry.size <= limit - start else {
      throw failure("record '\(entry.name)' lies outside the file")
    }
    let name = try file.bytes(entry.offset + 30..<entry.offset + 30 + nameLength)
    guard name.elementsEqual(entry.name.utf8) else {
      throw failure("record '\(entry.name)' has another name in its local header")
    }
    return start..<start + entry.size
  }
}
