public import TensorMath

/// A linear layer with low-rank adapters beside its frozen weight: h = W0·x + s·B(A(dropout x)) for each active adapter.
///
/// Source: peft/tuners/lora/layer.py `Linear.forward`.
public final class LoRALinear: LinearLayer {
  /// One adapter's part of this layer.
  public struct Factors {
    /// `[r, in]`.
    public let a: WeightMatrix
    /// `[out, r]`.
    public let b: WeightMatrix
    /// alpha / r, or alpha / √r with rsLoRA.
    public let scale: Float
    /// Probability that training drops an input. Running drops none.
    public let dropout: Double
    /// True for an adapter whose change of the weight is computed as a whole, such as DoRA's: shown here, and not applied again.
    var isFolded = false
    /// True if magnitudes belong to it.
    var hasMagnitude = false
    /// The bias of B; empty for none.
    var bias: [Float] = []
    /// True for an aLoRA, which acts from its invocation in the sequence on.
    var isInvoked = false

    public init(a: WeightMatrix, b: WeightMatrix, scale: Float, dropout: Double = 0) {
      self.a = a
      self.b = b
      self.scale = scale
      self.dropout = dropout
    }
  }

  public let base: Linear
  /// Adapters by name, in the order in which they came.
  public private(set) var adapters: [(name: String, factors: Factors)] = []
  /// Adapters that take part, and what each is multiplied by.
  var active: [(name: String, weight: Float)] = []

  public init(_ base: Linear) {
    self.base = base
    super.init("lora.Linear", inFeatures: base.inFeatures, outFeatures: base.outFeatures, [("base_layer", base)])
  }

  /// Adds an adapter. Traps if the factors do not fit the layer.
  public func add(_ factors: Factors, named name: String) {
    precondition(
      factors.a.columns == inFeatures && factors.b.rows == outFeatures && factors.a.rows == factors.b.columns,
      "the factors do not fit")
    remove(name)
    adapters.append((name, factors))
  }

  func remove(_ name: String) { adapters.removeAll { $0.name == name } }

  public override func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> { adapted(x, base(x), rowsBefore: x.rows) }

  override func callAsFunction(_ x: Matrix<Float>, _ pass: Pass) -> Matrix<Float> {
    adapted(x, base(x, pass), rowsBefore: pass.rowsBeforeAdapter(of: x.rows))
  }

  /// - Parameter output: the layer's own.
  /// - Parameter rowsBefore: rows at the beginning that an aLoRA leaves alone.
  private func adapted(_ x: Matrix<Float>, _ output: Matrix<Float>, rowsBefore: Int) -> Matrix<Float> {
    var y = output
    for (name, weight) in active {
      guard weight != 0, let factors = adapters.first(where: { $0.name == name })?.factors, !factors.isFolded else {
        continue
      }
      var change = factors.b.project(factors.a.project(x))
      if !factors.bias.isEmpty { change.addToRows(factors.bias) }
      if factors.isInvoked {
        for index in 0..<rowsBefore * change.columns { change.values[index] = 0 }
      }
      y.add(change, scale: factors.scale * weight)
    }
    return y
  }

  override var lines: [String] {
    var result = ["\(typeName)("]
    func append(_ name: String, _ text: [String]) {
      result.append("  (\(name)): " + text[0])
      result += text.dropFirst().map { "  " + $0 }
    }
    func dictionary(_ kind: String, _ entries: [(String, String)]) -> [String] {
      entries.isEmpty ? ["\(kind)()"] : ["\(kind)("] + entries.map { "  (\($0.0)): \($0.1)" } + [")"]
    }
    append("base_layer", base.lines)
    append(
      "lora_dropout",
      dictionary(
        "ModuleDict",
        adapters.map {
          (
            $0.name,
            $0.factors.dropout > 0 ? "Dropout(p=\(pythonNumber($0.factors.dropout)), inplace=False)" : "Identity()"
          )
        }))
    append(
      "lora_A",
      dictionary(
        "ModuleDict",
        adapters.map {
          ($0.name, "Linear(in_features=\($0.factors.a.columns), out_features=\($0.factors.a.rows), bias=False)")
        }))
    append(
      "lora_B",
      dictionary(
        "ModuleDict",
        adapters.map {
          ($0.name, "Linear(in_features=\($0.factors.b.columns), out_features=\($0.factors.b.rows), bias=False)")
        }))
    append("lora_embedding_A", ["ParameterDict()"])
    append("lora_embedding_B", ["ParameterDict()"])
    append(
      "lora_magnitude_vector",
      dictionary(
        "ModuleDict", adapters.filter(\.factors.hasMagnitude).map { ($0.name, "lora.dora.DoraLinearLayer()") }))
    return result + [")"]
  }
}
