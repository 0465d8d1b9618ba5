internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// An adapter that may be left out of a batch, so that its parameters have no gradient.
protocol OccasionalAdapter: LinearAdapter {
  var parameterNames: [String] { get }
  /// Whether it took part in a batch of the step.
  var takesPart: Bool { get set }
}

/// What LoHa and LoKr leave out while they are trained: a module's whole change, or some of its outputs.
///
/// Source: peft/tuners/loha/layer.py `LoHaLayer.forward`, `get_delta_weight`; lokr/layer.py.
struct LycorisDropout {
  /// Share of passes without the module's change.
  var module: Float = 0
  /// Share of outputs without a change.
  var ranks: Float = 0
  /// Whether the outputs that are left are scaled up by as much as went.
  var dividesByMean = true

  /// What one pass leaves out.
  struct Draw {
    /// True if nothing is changed.
    var leavesOut = false
    /// A factor for each output; nil for 1.
    var factors: [Float]?

    func scaleColumns(of matrix: LentMatrix) {
      if let factors { matrix.scaleColumns(by: factors) }
    }
  }

  /// Draws for one pass. PEFT draws for the module whatever its share is.
  func draw(outputs: Int, _ pass: TrainingPass) -> Draw {
    guard pass.drops else { return Draw() }
    guard pass.drawnShare() > module else { return Draw(leavesOut: true) }
    guard ranks != 0 else { return Draw() }
    var factors = (0..<outputs).map { _ in pass.drawnShare() > ranks ? Float(1) : 0 }
    if dividesByMean {
      let mean = factors.reduce(0, +) / Float(outputs)
      for index in factors.indices { factors[index] /= mean }
    }
    return Draw(factors: factors)
  }
}

extension AdapterReader {
  /// The shares that a LyCORIS method leaves out. Throws as `number`.
  func lycorisDropout(dividesByMean: Bool) throws(ModelError) -> LycorisDropout {
    LycorisDropout(
      module: Float(try number("module_dropout")), ranks: Float(try number("rank_dropout")),
      dividesByMean: dividesByMean)
  }

  /// alpha / r of a LyCORIS method for a module; both have patterns, which are LoRA's. Throws `.adapter` as `LoRAScaling`.
  func lycorisScale(_ path: String) throws(ModelError) -> Float {
    let names = [
      ("r", "r"), ("alpha", "lora_alpha"), ("rank_pattern", "rank_pattern"), ("alpha_pattern", "alpha_pattern"),
    ]
    let members =
      [JSONValue.Member("peft_type", .string("LORA"))]
      + names.compactMap { own, theirs in config.settings[own].map { JSONValue.Member(theirs, $0) } }
    let values = try withAdapterErrors({ () throws(AdapterError) in
      let config = try PeftConfig(json: .object(members), path: PeftConfig.fileName)
      return try LoRAScaling(config, path: PeftConfig.fileName).values(for: path)
    })
    return Float(values.scale)
  }
}
