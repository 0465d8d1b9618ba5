/// What a merge may do beyond the strict default.
public struct MergeOptions: Sendable {
  /// Unknown configuration keys known to be harmless.
  public var ignoredConfigKeys: Set<String> = []
  /// Merge although the configuration targets more modules than the file holds.
  public var allowMissing = false
  /// Merge modules of the file that the configuration does not target; PEFT would ignore them.
  public var allowUntargeted = false
  /// Merge an adapter that the base says it holds already.
  public var allowRepeated = false
  /// Merge adapters with infinities or NaNs, and go on where a sum is greater than the weight's dtype holds.
  public var allowNonFinite = false
  /// Greatest bytes of tensor data in a shard; nil keeps the base's shards.
  public var maxShardBytes: Int?
  /// Replace an output that exists.
  public var replaceOutput = false
  /// Wait until the output is on the disk before it gets its name.
  public var durable = false

  public init() {}
}
