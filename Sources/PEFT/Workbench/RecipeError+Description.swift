extension RecipeError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .adapter(let error): return error.description
    case .notYAML(let path, let line, let reason): return "\(path): line \(line): \(reason)."
    case .unknownKey(let path, let place, let key, let nearest):
      let hint = nearest.isEmpty ? "" : " Did you mean \(nearest.map { "'\($0)'" }.joined(separator: " or "))?"
      return "\(path): \(place.isEmpty ? "" : "\(place): ")unknown key '\(key)'.\(hint)"
    case .unsupported(let path, let what, let reason): return "\(path): \(what) is not supported: \(reason)"
    case .badValue(let path, let place, let expected, let found):
      return "\(path): \(place) is \(found); expected \(expected)."
    case .missing(let path, let place, let key):
      return "\(path): \(place.isEmpty ? "" : "\(place): ")'\(key)' is missing."
    case .inputs(let path, let place, let reason): return "\(path): \(place): \(reason)"
    case .parameterMissing(let path, let parameter, let tensor, let model):
      return "\(path): '\(parameter)' has no value for tensor '\(tensor)'"
        + (model.map { " of \($0)" } ?? "") + ". Give one without a filter, or a last one with the filter '*'."
    case .layers(let path, let place, let reason): return "\(path): \(place): \(reason)"
    case .tensorMissing(let model, let tensor, let other):
      return "\(model): no tensor '\(tensor)', which \(other) has. The models are not of one architecture."
    case .shapes(let tensor, let found):
      return "tensor '\(tensor)' has different shapes: "
        + found.map { "\($0.shape) in \($0.model)" }.joined(separator: ", ")
        + ". Models are mixed element by element; vocabularies must be made equal first."
    case .notMixed(let tensor, let dtype, let models):
      return "tensor '\(tensor)' is \(dtype), which is not computed on, and differs between "
        + models.joined(separator: " and ") + ". Use checkpoints in 16 or 32 bits."
    case .architectures(let first, let type, let second, let other):
      return
        "\(second) is a model of type '\(other)', \(first) one of type '\(type)': only models of one architecture are merged."
    case .vocabularies(let path, let key, let first, let second, let reason):
      return "\(path): \(key): the tokenizer can only be copied, and \(reason) (\(first), \(second)). "
        + "Make the vocabularies equal first, or leave \(key) out if the tokens mean the same in all models."
    }
  }
}
