public import LanguageModels
public import PEFT
internal import TensorMath

extension TrainableModel {
  /// A model with an adapter to be trained: fresh, or one to go on from.
  ///
  /// - Parameter seed: the one that the adapter was made with. It matters to methods whose adapters do not hold all that is
  ///   trained, such as p-tuning.
  /// Throws `.unsupported` for what is not trained here, `.adapter` where the adapter does not fit the model.
  public convenience init(
    _ model: CausalLanguageModel, adapter: StoredAdapter, seed: UInt64 = 42
  ) throws(ModelError) {
    let method = try TrainedMethod.of(adapter.config)
    let reader = try AdapterReader(adapter, model, seed: seed)
    try method.read(reader)
    let workspace = Workspace()
    let store = ParameterStore(reader.parameters, in: workspace)
    let parts = try reader.parts(store)
    self.init(
      reader.frozen, parameters: store, parts: parts, carried: reader.carried, aliases: reader.aliases, seed: seed,
      workspace: workspace)
  }
}
