public import TensorFiles

/// Trainable and all parameters, counted and printed as PEFT does.
public struct ParameterCount: Sendable, Hashable {
  /// Parameters that training changes.
  public let trainable: Int
  /// Parameters of the model with its adapter; tied weights count once, buffers not at all.
  public let all: Int

  public init(trainable: Int, all: Int) {
    self.trainable = trainable
    self.all = all
  }
}

extension ParameterCount: CustomStringConvertible {
  /// PEFT's line. Source: peft/peft_model.py `PeftModel.print_trainable_parameters`.
  public var description: String {
    let percent = all == 0 ? 0 : 100 * Double(trainable) / Double(all)
    return "trainable params: \(grouped(trainable)) || all params: \(grouped(all)) || trainable%: \(fixed(percent, 4))"
  }
}

/// A whole number with a comma between thousands.
public func grouped(_ number: Int) -> String {
  var text = ""
  for (index, digit) in String(number.magnitude).reversed().enumerated() {
    if index > 0 && index % 3 == 0 { text.append(",") }
    text.append(digit)
  }
  return (number < 0 ? "-" : "") + String(text.reversed())
}

/// A number with a fixed count of decimals, rounded to nearest, ties of the exact binary value to even.
public func fixed(_ value: Double, _ decimals: Int) -> String {
  guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
  var scale = 1
  for _ in 0..<decimals { scale *= 10 }
  let product = value.magnitude * Double(scale)
  var units = Int(product.rounded(.down))
  // The product's rounding error tells which side of a tie the exact value lies on.
  let rest = (-Double(units)).addingProduct(value.magnitude, Double(scale))
  if rest > 0.5 || (rest == 0.5 && units % 2 == 1) { units += 1 }
  let sign = value < 0 && units > 0 ? "-" : ""
  guard decimals > 0 else { return sign + String(units) }
  let fraction = String(units % scale)
  return sign + "\(units / scale)." + String(repeating: "0", count: decimals - fraction.count) + fraction
}

extension BaseModel {
  /// What PEFT counts after it has put an adapter of this configuration on this base, in the class that the adapter was trained on.
  ///
  /// What the adapter stores is counted from its weights. Without them only plain LoRA is counted, by what its configuration
  /// targets here.
  /// - Parameter weights: the adapter's file, if there is one.
  /// Source: peft/peft_model.py `PeftModel.get_nb_trainable_parameters`.
  /// Throws `.uncountable` where files do not tell the number, `.moduleNotTargeted`, `.configValue`, `.file`, and what
  /// `TargetMatcher` and `LoRAScaling` throw.
  public func parameterCount(
    of config: PeftConfig, configPath: String, weights: SafetensorsFile?
  ) throws(AdapterError) -> ParameterCount {
    let counter = try ParameterCounter(base: self, config: config, configPath: configPath, file: weights)
    guard let weights else { return try counter.byConfiguration() }
    return try counter.byWeights(weights)
  }
}
