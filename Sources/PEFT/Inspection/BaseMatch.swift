internal import TensorFiles

/// How an adapter fits a base: the tensors that it would change.
public struct BaseMatch: Sendable {
  /// Tensors that differ only in a layer's number.
  public struct Row: Sendable {
    /// The name in the checkpoint with `{…}` for the number.
    public let name: String
    public let count: Int
    public let shape: [Int]
    public let dtype: String
    /// "merged", "replaced", "rows replaced", "bias changed" or "added".
    public let change: String
  }

  public let rows: [Row]
  /// Modules of the adapter.
  public let moduleCount: Int
  /// Modules of which a merge holds the change.
  public let matchedCount: Int
  /// What is worth a word.
  public let notes: [String]

  /// Resolves the adapter as a merge would. Throws what `MergePlan.init` throws: the reason why it does not fit.
  public init(base: String, adapter: String, options: MergeOptions = MergeOptions()) throws(AdapterError) {
    let plan = try MergePlan(base: base, adapter: adapter, options: options)
    var folding = LayerFolding<String>()
    for output in plan.match.changedTensors {
      let change: String
      switch output.change {
      case .unchanged: continue
      case .sums, .sumOnRows, .rules: change = plan.base.checkpoint[output.item.name] == nil ? "added" : "merged"
      case .biasRule, .biases: change = "bias changed"
      case .rows: change = "rows replaced"
      case .replacement: change = plan.base.checkpoint[output.item.name] == nil ? "added" : "replaced"
      }
      folding.add(output.item.name, shapes: [output.item.shape], output.item.dtype, change)
    }
    rows = folding.groups.map {
      Row(name: $0.name, count: $0.count, shape: $0.shapes[0], dtype: $0.dtype.rawValue, change: $0.extra)
    }
    moduleCount = plan.moduleCount
    matchedCount = plan.mergedCount
    notes = plan.notes
  }
}
