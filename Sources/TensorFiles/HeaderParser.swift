internal import CJansson

/// Turns the text of a safetensors header into checked entries.
struct HeaderParser {
  let path: String
  let dataBytes: Int
  let dataOffset: Int

  struct Result {
    var metadata: [JSONValue.Member] = []
    var entries: [TensorEntry] = []
    var unknownKeys: [String] = []
  }

  /// An entry as the header states it, offsets not yet checked against the others.
  private struct Claim {
    let name: String
    let dtype: DType
    let shape: [Int]
    let begin: Int
    let end: Int
  }

  func parse(_ header: [UInt8]) throws(TensorFileError) -> Result {
    let first = header.first { ![0x20, 0x09, 0x0A, 0x0D].contains($0) }
    // Letters, digits and brackets can begin JSON or a broken text: the parser says which.
    if let first, first == 0xEF || first == 0xFE || first == 0xFF || first < 0x20 {
      throw .headerStart(path: path, byte: first)
    }
    let document = try document(header)
    let root = document.root
    guard root.pointee.type == JSON_OBJECT else { throw .headerNotObject(path: path) }
    var result = Result()
    var claims: [Claim] = []
    claims.reserveCapacity(json_object_size(root))
    for (name, value) in JSONMembers(root) {
      if name == "__metadata__" {
        result.metadata = try metadata(value)
      } else {
        claims.append(try claim(name, value, unknownKeys: &result.unknownKeys))
      }
    }
    result.entries = try arranged(claims)
    return result
  }

  private func document(_ header: [UInt8]) throws(TensorFileError) -> JSONDocument {
    do throws(JSONFailure) {
      return try JSONDocument(parsing: header.span.bytes)
    } catch {
      let offset = 8 + error.byteOffset
      switch error.reason {
      case .notUTF8: throw .headerNotUTF8(path: path, byteOffset: offset)
      case .duplicateKey: throw .duplicateKey(path: path, byteOffset: offset, near: error.near)
      case .numberOutOfRange:
        throw .numberInvalid(
          path: path, tensor: "at byte \(offset)", field: "header",
          found: error.near.isEmpty ? error.message : error.near)
      case .syntax: throw .headerNotJSON(path: path, byteOffset: offset, reason: error.message)
      }
    }
  }

  private func metadata(_ json: OpaquePointerToJSON) throws(TensorFileError) -> [JSONValue.Member] {
    switch JSONValue(json) {
    case .null: return []
    case .object(let members):
      for member in members where member.value.stringValue == nil {
        throw .metadataNotStrings(path: path, key: member.key)
      }
      return members
    default: throw .metadataNotStrings(path: path, key: nil)
    }
  }

  private func claim(
    _ name: String, _ json: OpaquePointerToJSON, unknownKeys: inout [String]
  ) throws(TensorFileError) -> Claim {
    guard name.utf8.count <= TensorEntry.partLimit || name.parts(keepingEmpty: true).count <= TensorEntry.partLimit
    else {
      throw .nameTooDeep(path: path, tensor: name, limit: TensorEntry.partLimit)
    }
    let value = JSONValue(json)
    guard let members = value.members else {
      throw .entryMalformed(path: path, tensor: name, field: "entry", found: value.compactText)
    }
    unknownKeys += members.filter { !["dtype", "shape", "data_offsets"].contains($0.key) }.map { "\(name).\($0.key)" }
    let dtypeName = try field("dtype", of: value, tensor: name) { $0.stringValue }
    let shapeValues = try field("shape", of: value, tensor: name) { $0.elements }
    let offsetValues = try field("data_offsets", of: value, tensor: name) { $0.elements }
    let shape = try numbers(shapeValues, field: "shape", tensor: name)
    let offsets = try numbers(offsetValues, field: "data_offsets", tensor: name)
    guard offsets.count == 2 else {
      throw .entryMalformed(path: path, tensor: name, field: "data_offsets", found: "\(offsets.count) numbers")
    }
    guard let dtype = DType(rawValue: dtypeName) else {
      throw .dtypeUnknown(path: path, tensor: name, found: dtypeName)
    }
    return Claim(name: name, dtype: dtype, shape: shape, begin: offsets[0], end: offsets[1])
  }

  private func field<Value>(
    _ key: String, of entry: JSONValue, tensor: String, as convert: (JSONValue) -> Value?
  ) throws(TensorFileError) -> Value {
    let found = entry[key]
    guard let found, let value = convert(found) else {
      throw .entryMalformed(path: path, tensor: tensor, field: key, found: found?.compactText ?? "nothing")
    }
    return value
  }

  private func numbers(
    _ values: [JSONValue], field: String, tensor: String
  ) throws(TensorFileError) -> [Int] {
    var numbers: [Int] = []
    for value in values {
      guard let number = value.integerValue, number >= 0 else {
        throw .numberInvalid(path: path, tensor: tensor, field: field, found: value.compactText)
      }
      numbers.append(number)
    }
    return numbers
  }

  /// Checks that the claims, in the order of their bytes, cover the data exactly.
  private func arranged(_ claims: [Claim]) throws(TensorFileError) -> [TensorEntry] {
    var entries: [TensorEntry] = []
    entries.reserveCapacity(claims.count)
    var previousEnd = 0
    for claim in claims.sorted(by: { ($0.begin, $0.end, ExactName($0.name)) < ($1.begin, $1.end, ExactName($1.name)) })
    {
      let size = try byteCount(claim)
      guard claim.begin <= claim.end else {
        throw .offsetsReversed(path: path, tensor: claim.name, begin: claim.begin, end: claim.end)
      }
      if claim.begin < previousEnd {
        throw .overlap(path: path, tensor: claim.name, begin: claim.begin, previousEnd: previousEnd)
      }
      if claim.begin > previousEnd {
        throw .gap(path: path, tensor: claim.name, begin: claim.begin, previousEnd: previousEnd)
      }
      guard claim.end - claim.begin == size else {
        throw .sizeMismatch(
          path: path, tensor: claim.name, expectedBytes: size, foundBytes: claim.end - claim.begin)
      }
      guard claim.end <= dataBytes else {
        throw .dataTruncated(path: path, tensor: claim.name, expectedBytes: claim.end, foundBytes: dataBytes)
      }
      entries.append(
        TensorEntry(
          name: claim.name, dtype: claim.dtype, shape: claim.shape,
          byteRange: dataOffset + claim.begin..<dataOffset + claim.end))
      previousEnd = claim.end
    }
    guard previousEnd == dataBytes else {
      throw .trailingBytes(path: path, expectedBytes: previousEnd, foundBytes: dataBytes)
    }
    return entries
  }

  private func byteCount(_ claim: Claim) throws(TensorFileError) -> Int {
    guard let count = TensorEntry.elementCount(claim.shape), let bits = checkedProduct(count, claim.dtype.bitCount),
      bits / 8 <= TensorEntry.byteLimit
    else { throw .shapeOverflow(path: path, tensor: claim.name, shape: claim.shape) }
    guard bits % 8 == 0 else {
      throw .subByteMisaligned(path: path, tensor: claim.name, dtype: claim.dtype, shape: claim.shape)
    }
    return bits / 8
  }
}
