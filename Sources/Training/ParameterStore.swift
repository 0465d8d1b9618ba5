public import TensorMath

/// The trained parameters of a run: values, gradients and both moments, each in one piece of memory.
///
/// Order is that of the names in PEFT's `named_parameters()`; clipping sums norms in it.
public final class ParameterStore {
  /// A parameter's name as PEFT saves it, and its shape.
  public struct Entry: Sendable, Equatable {
    public let name: String
    public let shape: [Int]
    /// True if weight decay pulls at it.
    public let decays: Bool
    let offset: Int
    var count: Int { shape.reduce(1, *) }
  }

  public private(set) var entries: [Entry] = []
  let values: LentMatrix
  let gradients: LentMatrix
  let first: LentMatrix
  let second: LentMatrix
  let workspace: Workspace
  /// Steps of the optimizer that each parameter took part in.
  var counts: [Int]

  /// A parameter to be trained, with its first values.
  public struct Initial {
    let name: String
    let shape: [Int]
    let values: [Float]
    let isOfLayerNorm: Bool

    /// - Parameter isOfLayerNorm: true for a parameter of torch's `LayerNorm`, which does not decay whatever its name.
    public init(name: String, shape: [Int], values: [Float], isOfLayerNorm: Bool = false) {
      precondition(values.count == shape.reduce(1, *), "values do not fit the shape")
      self.name = name
      self.shape = shape
      self.values = values
      self.isOfLayerNorm = isOfLayerNorm
    }
  }

  public init(_ parameters: [Initial], in workspace: Workspace) {
    let count = parameters.reduce(0) { $0 + $1.values.count }
    self.workspace = workspace
    values = workspace.zeros(1, count)
    gradients = workspace.zeros(1, count)
    first = workspace.zeros(1, count)
    second = workspace.zeros(1, count)
    counts = parameters.map { _ in 0 }
    var offset = 0
    for parameter in parameters {
      entries.append(
        Entry(
          name: parameter.name, shape: parameter.shape, decays: !parameter.isOfLayerNorm && Self.decays(parameter.name),
          offset: offset))
      LentMatrix(values, from: offset, rows: 1, columns: parameter.values.count).copy(parameter.values)
      offset += parameter.values.count
    }
  }

  /// Number of trained elements.
  public var count: Int { values.count }

  /// A parameter's values and gradient, as a matrix of its first extent by the rest. Traps on a name that is not there.
  func parameter(_ name: String) -> TrainedParameter {
    guard let entry = entries.first(where: { $0.name == name }) else { preconditionFailure("no parameter \(name)") }
    let rows = entry.shape.first ?? 1
    let columns = entry.count / max(1, rows)
    return TrainedParameter(
      value: LentMatrix(values, from: entry.offset, rows: rows, columns: columns),
      gradient: LentMatrix(gradients, from: entry.offset, rows: rows, columns: columns))
  }

  /// Values that stay as they are where a parameter is expected: their gradient is summed, and goes nowhere.
  func frozen(_ values: [Float], rows: Int) -> TrainedParameter {
    let columns = values.count / max(1, rows)
    let value = workspace.matrix(rows, columns)
    value.copy(values)
    return TrainedParameter(value: value, gradient: workspace.zeros(rows, columns))
  }

  /// The values of a parameter. Traps on a name that is not there.
  public func values(of name: String) -> [Float] { parameter(name).value.values }

  /// All values, and both moments, by the names that a checkpoint gives them.
  var states: [(name: String, all: LentMatrix)] { [("value", values), ("exp_avg", first), ("exp_avg_sq", second)] }

  /// One parameter's part of what all have.
  func part(of all: LentMatrix, _ entry: Entry) -> LentMatrix {
    LentMatrix(all, from: entry.offset, rows: 1, columns: entry.count)
  }

  /// The gradient of a parameter. Traps on a name that is not there.
  public func gradient(of name: String) -> [Float] { parameter(name).gradient.values }

  /// Whether transformers' Trainer lets weight decay act on a parameter.
  ///
  /// Source: transformers/trainer.py `Trainer.get_decay_parameter_names`, transformers/trainer_pt_utils.py `get_parameter_names`.
  static func decays(_ name: String) -> Bool {
    let name = name.lowercased()
    if ["bias", "layernorm", "rmsnorm"].contains(where: { name.contains($0) }) { return false }
    return !name.split(separator: ".").contains { $0 == "norm" || $0.hasSuffix("_norm") }
  }
}

/// A parameter's values and where its gradient is summed.
struct TrainedParameter {
  let value: LentMatrix
  let gradient: LentMatrix
}
