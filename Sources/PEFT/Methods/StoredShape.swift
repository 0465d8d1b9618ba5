internal import TensorFiles

/// What a module's stored tensors say of its weight's shape, for looking at an adapter without its base.
public enum StoredShape: Sendable {
  /// A shape that the tensors fit.
  /// - Parameter isWhole: false if an extent is a guess, because nothing stored has it: then a rule of this shape tells
  ///   whether it changes anything, but not by how much.
  case known(WeightShape, isWhole: Bool)
  /// Nothing is known of the shape, but the change is zero just where the stored values are.
  case linear
  /// The change, and whether there is one, depends on the weight itself.
  case dependsOnWeight
}

/// What an adapter's file holds of one module.
public struct StoredModule {
  public let config: PeftConfig
  /// The path in the model.
  public let path: String
  let tensors: [ExactName: TensorEntry]
  let shared: [ExactName: TensorEntry]

  /// The shape of a tensor, by what follows the module's path; nil if there is none.
  public func shape(_ role: String) -> [Int]? { tensors[role]?.shape }

  /// The shape of a tensor of the whole adapter, by what follows `base_model.`; nil if there is none.
  public func sharedShape(_ role: String) -> [Int]? { shared[role]?.shape }

  /// One extent of a tensor; nil if there is none.
  public func extent(_ role: String, _ index: Int) -> Int? {
    guard let found = shape(role), found.indices.contains(index) else { return nil }
    return found[index]
  }

  /// The shape of a weight with these extents; where one is not known, a guess: then the rule says what does not fit.
  ///
  /// - Parameter input: inputs, kernels counted.
  public func matrix(
    _ output: Int?, _ input: Int?, guess: Int = 16, kernel: [Int] = [], isEmbedding: Bool = false
  ) -> StoredShape {
    let shape = WeightShape(
      output: output ?? guess, input: input ?? guess, kernel: kernel, isEmbedding: isEmbedding, isTransposed: false)
    return .known(shape, isWhole: output != nil && input != nil)
  }
}
