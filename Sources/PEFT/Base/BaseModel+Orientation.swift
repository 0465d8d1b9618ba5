internal import TensorFiles

extension BaseModel {
  /// What tells a torch Linear, `[out, in]`, from a transformers Conv1D, `[in, out]`, where the model type is not known.
  ///
  /// A Conv1D always has a bias, one an output. So a matrix without a bias is no Conv1D, and a bias shows the orientation of
  /// every matrix that is not square. A square one is as those of the same last name, then as all others of the base.
  struct Orientations {
    /// What the base says about a matrix.
    enum Finding: Sendable, Hashable {
      case linear
      case transposed
      /// Square, and nothing else in the base tells.
      case unknown
      /// Square, and the base holds both.
      case mixed
    }

    private var byLastName: [ExactName: Set<Bool>] = [:]
    private var all: Set<Bool> = []
    private let biases: [ExactName: Int]
    /// Output projections of torch's MultiheadAttention, which are Linear.
    private let projections: Set<ExactName>

    /// - Parameter shapes: the shapes of the base's tensors, by their names in the model.
    init(_ shapes: [ExactName: [Int]]) {
      let suffix = ".bias"
      biases = Dictionary(
        shapes.compactMap { name, shape in
          name.text.hasSuffix(suffix) && shape.count == 1 ? (String(name.text.dropLast(suffix.count)), shape[0]) : nil
        }, uniquingKeysWith: { first, _ in first })
      let inner = ".in_proj_weight"
      projections = Set(
        exactly: shapes.keys.filter { $0.text.hasSuffix(inner) }.map { $0.text.dropLast(inner.count) + ".out_proj" })
      for (path, count) in biases {
        guard let shape = shapes["\(path).weight"], shape.count == 2, shape[0] != shape[1] else { continue }
        let isTransposed = shape[1] == count
        guard isTransposed || shape[0] == count else { continue }
        byLastName[lastPart(path.text), default: []].insert(isTransposed)
        all.insert(isTransposed)
      }
    }

    /// How a matrix of the base is stored.
    func finding(_ path: String, shape: [Int]) -> Finding {
      guard shape.count == 2, let bias = biases[path], !projections.contains(path) else { return .linear }
      if shape[0] != shape[1] { return shape[1] == bias ? .transposed : .linear }
      for known in [byLastName[lastPart(path)] ?? [], all] where known.count == 1 {
        return known.contains(true) ? .transposed : .linear
      }
      return all.isEmpty ? .unknown : .mixed
    }
  }
}
