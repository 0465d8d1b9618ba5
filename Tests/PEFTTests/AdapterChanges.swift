import PEFT
import TensorFiles
import TensorMath

/// The changes s·B·A of a LoRA's modules, computed plainly: what tests compare with.
struct AdapterChanges {
  let config: PeftConfig
  let file: SafetensorsFile
  let changes: [String: Matrix<Double>]
  private let scaling: LoRAScaling
  private var keys: [String: String] = [:]

  init(_ directory: String) throws {
    config = try PeftConfig.load(directory: directory)
    file = try Adapter.openWeights(directory)
    scaling = try LoRAScaling(config, path: directory)
    let adapter = try Adapter(directory: directory)
    var changes: [String: Matrix<Double>] = [:]
    for module in adapter.modules {
      var key = module.path
      var container = key
      var depth = 0
      while container.hasSuffix(".base_layer") { (container, depth) = (String(container.dropLast(11)), depth + 1) }
      let parameters = (config.targetParameters ?? []).compactMap { $0.split(separator: ".").last.map(String.init) }
      if !parameters.isEmpty, container.hasSuffix("experts") {
        let ordered = ["gate_up_proj", "down_proj"].filter(parameters.contains)
        key = "\(container).\(ordered[ordered.count - 1 - depth])"
      }
      keys[module.path] = key
      let values = try scaling.values(for: key)
      let (a, b) = (try Self.matrix(file, module.a), try Self.matrix(file, module.b))
      let experts = a.rows / values.rank
      var parts: [Matrix<Double>] = []
      for expert in 0..<experts {
        let order = (0..<values.rank).map { $0 * experts + expert }
        parts.append(
          b.selectingColumns(order).times(a.rows(expert * values.rank..<(expert + 1) * values.rank)))
      }
      var change = Matrix<Double>(
        rows: experts * b.rows, columns: a.columns, values: parts.flatMap(\.values))
      for index in change.values.indices { change.values[index] *= values.scale }
      changes[module.path] = change
    }
    self.changes = changes
  }

  func scale(_ path: String) -> Double { (try? scaling.values(for: keys[path] ?? path).scale) ?? .nan }

  func values(_ name: String) throws -> [Double] {
    guard let entry = file[name] else { return [] }
    return try Self.matrix(file, entry).values
  }

  /// ‖changes - expected‖/‖expected‖, of all modules or one.
  func error(against expected: [String: Matrix<Double>], path: String? = nil) -> Double {
    var (lost, squares) = (0.0, 0.0)
    for (name, wanted) in expected where path == nil || name == path {
      guard let found = changes[name], found.values.count == wanted.values.count else { return .infinity }
      for (x, y) in zip(found.values, wanted.values) {
        lost += (x - y) * (x - y)
        squares += y * y
      }
    }
    return lost == 0 ? 0 : (lost / squares).squareRoot()
  }

  /// Changes that a fixture holds in f64. PEFT gives those of embeddings and of Conv1D transposed.
  static func expected(_ path: String) throws -> [String: Matrix<Double>] {
    let file = try SafetensorsFile(path: path)
    var changes: [String: Matrix<Double>] = [:]
    for entry in file.entries {
      let value = try matrix(file, entry)
      changes[entry.name] = entry.name == "embed" || entry.name.hasSuffix("mix") ? value.transposed : value
    }
    return changes
  }

  static func matrix(_ file: SafetensorsFile, _ entry: TensorEntry) throws -> Matrix<Double> {
    let bytes = try file.file.bytes(entry.byteRange)
    var values = [Double](repeating: 0, count: entry.elementCount)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: entry.dtype.format!, into: &span)
    let rows = entry.shape.first ?? 1
    return Matrix(rows: rows, columns: values.count / max(1, rows), values: values)
  }

  static func floats(_ bytes: [UInt8]) -> [Float] {
    var values = [Float](repeating: 0, count: bytes.count / 4)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: .f32, into: &span)
    return values
  }
}
