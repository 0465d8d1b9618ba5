internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// What of a model is trained, by module.
struct TrainedParts {
  var linears: [ExactName: any LinearAdapter] = [:]
  /// Biases of linear layers and norms that are trained beside a weight that is not, or with it.
  var biases: [ExactName: TrainedParameter] = [:]
  /// Weights of norms.
  var normWeights: [ExactName: TrainedParameter] = [:]
  var embedding: (any EmbeddingAdapter)?
  /// Embedded rows before each sequence.
  var prompt: TrainedParameter?
  /// Keys and values before each layer's own, `[rows, layers · 2 · width]`.
  var prefix: TrainedParameter?
  /// What makes the prompt or the prefix of parameters of its own.
  var encoder: PromptEncoderTraining?
  /// Adapters that may be left out of a batch.
  var occasional: [any OccasionalAdapter] = []
  /// True if what was drawn decides how many numbers a batch draws.
  var drawsVary = false
  /// What a method adds to the loss and does after a step.
  var budget: (any TrainedBudget)?

  func linear(_ layer: FrozenLinear) -> AdaptedLinear {
    AdaptedLinear(layer: layer, adapter: linears[layer.path], bias: biases[layer.path])
  }

  func norm(_ norm: FrozenNorm) -> TrainedNorm {
    TrainedNorm(frozen: norm.rule, weight: normWeights[norm.path], bias: biases[norm.path])
  }
}

/// A method that adds to the loss, and changes its parameters after each step of the optimizer.
protocol TrainedBudget: AnyObject {
  /// What is added to the loss of a batch; its gradient too, if it is wanted.
  func loss(addingGradients: Bool) -> Double
  /// Called after the optimizer's step `step`, counted from 0, while gradients are still there.
  func finish(step: Int)
  /// What of a parameter is saved.
  func saved(_ name: String, _ shape: [Int], _ values: [Float]) -> (shape: [Int], values: [Float])
  /// What the next step depends on beside the parameters, for checkpoints.
  var state: [(name: String, values: [Float])] { get }
  /// Takes over a checkpoint's state; false if something of it is missing. Nothing changes then.
  func restore(_ state: [String: [Float]]) -> Bool
  /// The configuration that is saved with it.
  func saved(_ config: PeftConfig) -> PeftConfig
}
