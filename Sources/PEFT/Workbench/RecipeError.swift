internal import TensorFiles

/// What can be wrong with a recipe of models, or with its fit to them. Wording: `RecipeError+Description.swift`.
public enum RecipeError: Error, Sendable, Equatable {
  /// A model, an adapter or a file failed.
  case adapter(AdapterError)
  /// The text is not YAML that is read here.
  case notYAML(path: String, line: Int, reason: String)
  /// A key that means nothing there; `nearest` are known ones.
  case unknownKey(path: String, at: String, key: String, nearest: [String])
  /// A key or value that mergekit knows and that is not supported.
  case unsupported(path: String, what: String, reason: String)
  /// A key has a value of another form.
  case badValue(path: String, at: String, expected: String, found: String)
  /// A key that must be there is missing.
  case missing(path: String, at: String, key: String)
  /// The method does not take the models that it is given.
  case inputs(path: String, at: String, reason: String)
  /// A parameter without a default has no value for a tensor.
  case parameterMissing(path: String, parameter: String, tensor: String, model: String?)
  /// A slice reaches past a model's layers, or the slices do not fit each other.
  case layers(path: String, at: String, reason: String)
  /// A tensor that one model has and another lacks.
  case tensorMissing(model: String, tensor: String, other: String)
  /// A tensor's shapes in the models differ.
  case shapes(tensor: String, found: [(model: String, shape: [Int])])
  /// A tensor of integers or another type without arithmetic, which differs between models.
  case notMixed(tensor: String, dtype: String, models: [String])
  /// Models of different architectures.
  case architectures(first: String, type: String, second: String, other: String)
  /// Vocabularies that differ, where the tokenizer can only be copied.
  case vocabularies(path: String, key: String, first: String, second: String, reason: String)

  public static func == (left: RecipeError, right: RecipeError) -> Bool { left.description == right.description }
}

/// Runs `body`, turning errors of adapters into those of recipes.
func asRecipeError<Value>(_ body: () throws(AdapterError) -> Value) throws(RecipeError) -> Value {
  do throws(AdapterError) { return try body() } catch { throw .adapter(error) }
}
