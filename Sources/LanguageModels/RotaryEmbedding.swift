internal import Glibc
internal import TensorFiles
internal import TensorMath

/// Rotations of queries and keys by their positions.
///
/// Source: transformers/modeling_rope_utils.py; `rope_parameters` of transformers 5, or `rope_scaling` and `rope_theta` before.
public final class RotaryEmbedding: NetworkModule {
  private enum Scaling {
    case none
    case linear(Double)
    case dynamic(factor: Double, context: Int)
    case llama3(factor: Double, low: Double, high: Double, context: Double)
  }

  private let theta: Double
  private let width: Int
  private let scaling: Scaling

  /// - Parameter width: features of a head. Throws `.configValue`, `.unsupported`.
  public init(_ typeName: String, _ config: ModelConfig, width: Int) throws(ModelError) {
    let settings = config.value("rope_parameters") ?? config.value("rope_scaling")
    let key = config.value("rope_parameters") == nil ? "rope_scaling" : "rope_parameters"
    func number(_ name: String, _ fallback: Double? = nil) throws(ModelError) -> Double {
      guard let value = settings?[name]?.doubleValue ?? fallback, value.isFinite, value > 0 else {
        throw .configValue(
          path: config.path, key: "\(key).\(name)", expected: "a number over 0",
          found: settings?[name]?.compactText ?? "absent")
      }
      return value
    }
    try config.require(width % 2 == 0, "head_dim", "an even number")
    self.width = width
    theta = try number("rope_theta", try config.number("rope_theta", default: 10000))
    let type = settings?["rope_type"]?.stringValue ?? settings?["type"]?.stringValue ?? "default"
    switch type {
    case "default": scaling = .none
    case "linear": scaling = .linear(try number("factor"))
    case "dynamic":
      scaling = .dynamic(
        factor: try number("factor"), context: try config.count("max_position_embeddings", default: 2048))
    case "llama3":
      scaling = .llama3(
        factor: try number("factor"), low: try number("low_freq_factor"), high: try number("high_freq_factor"),
        context: try number("original_max_position_embeddings"))
    default:
      throw .configValue(
        path: config.path, key: "\(key).rope_type", expected: "default, linear, dynamic or llama3", found: "\"\(type)\""
      )
    }
    super.init(typeName, details: "")
  }

  /// Radians a position for each pair of features.
  private func frequencies(length: Int) -> [Float] {
    var base = theta
    if case .dynamic(let factor, let context) = scaling, length > context {
      let stretch = factor * Double(length) / Double(context) - (factor - 1)
      base *= pow(stretch, Double(width) / Double(width - 2))
    }
    return (0..<width / 2).map { pair in
      let plain = 1 / Float(pow(base, Double(2 * pair) / Double(width)))
      switch scaling {
      case .none, .dynamic: return plain
      case .linear(let factor): return plain / Float(factor)
      case .llama3(let factor, let low, let high, let context):
        let wave = 2 * Double.pi / Double(plain)
        if wave < context / high { return plain }
        if wave > context / low { return Float(Double(plain) / factor) }
        let smooth = (context / wave - low) / (high - low)
        return Float((1 - smooth) * Double(plain) / factor + smooth * Double(plain))
      }
    }
  }

  /// Cosines and sines for positions: `[tokens, width / 2]` each.
  func angles(_ positions: Range<Int>) -> (cosines: [Float], sines: [Float]) {
    let frequencies = frequencies(length: positions.upperBound)
    var (cosines, sines): ([Float], [Float]) = ([], [])
    for position in positions {
      for frequency in frequencies {
        let angle = Float(position) * frequency
        cosines.append(cosf(angle))
        sines.append(sinf(angle))
      }
    }
    return (cosines, sines)
  }
}
