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
    let count = json_object_size(root)
    guard count <= SafetensorsFile.tensorLimit else {
      throw .tooManyTensors(path: path, count: count, limit: SafetensorsFile.tensorLimit)
    }
    var claims: [Claim] = []
    claims.reserveCapacity(count)
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
    guard json.pointee.type == JSON_OBJECT else {
      throw .entryMalformed(path: path, tensor: name, field: "entry", found: JSONValue(json).compactText)
    }
    if json_object_size(json) != 3 {
      unknownKeys += JSONMembers(json).map(\.key).filter { !["dtype", "shape", "data_offsets"].contains($0) }
        .map { "\(name).\($0)" }
    }
    let dtypeName = JSONValue(try field("dtype", JSON_STRING, of: json, tensor: name)).stringValue ?? ""
    let shape = try numbers("shape", of: json, tensor: name)
    let offsets = try numbers("data_offsets", of: json, tensor: name)
    guard offsets.count == 2 else {
      throw .entryMalformed(path: path, tensor: name, field: "data_offsets", found: "\(offsets.count) numbers")
    }
    guard let dtype = DType(rawValue: dtypeName) else {
      throw .dtypeUnknown(path: path, tensor: name, found: dtypeName)
    }
    return Claim(name: name, dtype: dtype, shape: shape, begin: offsets[0], end: offsets[1])
  }

  private func field(
    _ key: StaticString, _ type: json_type, of entry: OpaquePointerToJSON, tensor: String
  ) throws(TensorFileError) -> OpaquePointerToJSON {
    // Soundness: a static string ends with a zero.
    let found = json_object_getn(
      entry, UnsafeRawPointer(key.utf8Start).assumingMemoryBound(to: CChar.self), key.utf8CodeUnitCount)
    guard let found, found.pointee.type == type else {
      throw .entryMalformed(
        path: path, tensor: tensor, field: "\(key)", found: found.map { JSONValue($0).compactText } ?? "nothing")
    }
    return found
  }

  private func numbers(
    _ key: StaticString, of entry: OpaquePointerToJSON, tensor: String
  ) throws(TensorFileError) -> [Int] {
    let list = try field(key, JSON_ARRAY, of: entry, tensor: tensor)
    var numbers: [Int] = []
    numbers.reserveCapacity(json_array_size(list))
    for index in 0..<json_array_size(list) {
      guard let value = json_array_get(list, index) else { continue }
      let number = value.pointee.type == JSON_INTEGER ? Int(json_integer_value(value)) : -1
      guard number >= 0 else {
        throw .numberInvalid(path: path, tensor: tensor, field: "\(key)", found: JSONValue(value).compactText)
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
    for claim in inOrder(claims) {
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

  /// By their bytes. Nearly all files have them so.
  private func inOrder(_ claims: [Claim]) -> [Claim] {
    let isOrdered = claims.indices.dropFirst().allSatisfy { claims[$0 - 1].end <= claims[$0].begin }
    if isOrdered, claims.allSatisfy({ $0.begin < $0.end }) { return claims }
    return claims.sorted { ($0.begin, $0.end, ExactName($0.name)) < ($1.begin, $1.end, ExactName($1.name)) }
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
