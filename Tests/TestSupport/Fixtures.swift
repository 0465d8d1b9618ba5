public import TensorFiles

/// The Fixtures directory of the checkout.
public enum Fixtures {
  /// The path of something inside.
  public static func path(_ name: String) -> String {
    let here = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
    return "\(here)/Fixtures/\(name)"
  }

  /// The checkout's root.
  public static var root: String { FileSystem.parentDirectory(path("")) }

  /// The cases under Fixtures/merge.
  public static var mergeCases: [String] { (try? FileSystem.names(in: path("merge"))) ?? [] }
}

/// The name of an error's case, such as "headerPastEnd"; of an error of files within another it is that one's.
public func caseName(_ error: any Error) -> String {
  guard let payload = Mirror(reflecting: error).children.first, let name = payload.label else { return "\(error)" }
  if let inner = payload.value as? TensorFileError { return caseName(inner) }
  return name
}

/// Copies a directory of plain files.
public func copyDirectory(_ source: String, to target: String) throws {
  try FileSystem.makeDirectory(target)
  for name in try FileSystem.names(in: source) {
    try FileSystem.copy(FileSystem.join(source, name), to: FileSystem.join(target, name))
  }
}

/// Replaces a file's text.
public func overwrite(_ path: String, _ text: String) throws {
  if FileSystem.kind(path) != nil { try FileSystem.remove(path) }
  try OpenFile.create(path).write(text)
}

/// Replaces a file's bytes.
public func overwrite(_ path: String, _ bytes: [UInt8]) throws {
  if FileSystem.kind(path) != nil { try FileSystem.remove(path) }
  try OpenFile.create(path).write(bytes.span.bytes, at: 0)
}

/// All bytes of a file.
public func contents(_ path: String) throws -> [UInt8] {
  let file = try OpenFile.open(reading: path)
  return try file.bytes(0..<file.byteCount())
}

/// A tensor's values in double precision, decoded here and not by the code under test.
public func doubles(_ checkpoint: Checkpoint, _ name: String) throws -> [Double] {
  guard let location = checkpoint[name] else { return [] }
  return try doubles(checkpoint.shards[location.shard].file, location.entry)
}

/// As above, for an entry of a file.
public func doubles(_ file: OpenFile, _ entry: TensorEntry) throws -> [Double] {
  let bytes = try file.bytes(entry.byteRange)
  func word(_ index: Int, _ count: Int) -> UInt64 {
    (0..<count).reversed().reduce(0) { $0 << 8 | UInt64(bytes[index * count + $1]) }
  }
  return (0..<entry.elementCount).map { index in
    switch entry.dtype {
    case .bf16: Double(Float(bitPattern: UInt32(word(index, 2)) << 16))
    case .f16: halfValue(UInt16(word(index, 2)))
    case .f32: Double(Float(bitPattern: UInt32(word(index, 4))))
    default: Double(bitPattern: word(index, 8))
    }
  }
}

/// The value of an IEEE half, by its definition.
public func halfValue(_ bits: UInt16) -> Double {
  let sign = bits & 0x8000 == 0 ? 1.0 : -1.0
  let exponent = Int(bits >> 10) & 31
  let fraction = Double(bits & 0x3FF)
  if exponent == 31 { return fraction == 0 ? sign * .infinity : .nan }
  return exponent == 0 ? sign * fraction * 0x1p-24 : sign * (1024 + fraction) * powerOfTwo(exponent - 25)
}

/// 2 to a whole power.
public func powerOfTwo(_ exponent: Int) -> Double { Double(sign: .plus, exponent: exponent, significand: 1) }

/// A seeded generator for tests: SplitMix64.
public struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
