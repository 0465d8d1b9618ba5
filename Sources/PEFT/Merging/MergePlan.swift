internal import TensorFiles

/// Everything that a merge will do, decided and checked before anything is written.
///
/// Invariant: every tensor of the base has exactly one place in `shards`, and so has what `match` adds to them.
public struct MergePlan: Sendable {
  /// One file of the output.
  struct Shard: Sendable {
    let name: String
    let outputs: [MatchedTensor]
    let metadata: [JSONValue.Member]
  }

  /// What the adapters change, whatever files it goes to.
  let match: AdapterMatch
  public let options: MergeOptions
  let shards: [Shard]
  /// config.json of the output where it must differ from the base's.
  let editedConfig: JSONValue?
  /// Files that are copied beside the tensors.
  let sideFiles: SideFiles
  /// What is known of the result of taking adapters out; nil for a merge.
  public var restoration: Restoration?
  /// Things worth a word that do not stop the merge.
  public let notes: [String]

  public var base: BaseModel { match.base }
  /// The adapters in the order in which they are merged.
  public var adapters: [Adapter] { match.adapters }
  /// What each adapter's ΔW is multiplied by.
  public var weights: [Double] { match.weights }
  /// The first adapter; the only one of most merges.
  public var adapter: Adapter { adapters[0] }

  /// Modules in all adapters: those that their files name, or that shared tensors act on.
  public var moduleCount: Int { match.moduleCount }
  /// Modules of which the output holds the change.
  public var mergedCount: Int { match.matchedCount }
  /// Tensors of the base that the adapter replaces or changes beside the merged weights: saved modules, biases, rows.
  public var replacedCount: Int { match.replacedCount }
  /// Tensors that the base lacks and the adapter adds.
  public var addedCount: Int { match.tensors.added.count }

  /// The files of tensors that will be written.
  public var shardNames: [String] { shards.map(\.name) }
  /// Tensors of the output.
  public var tensorCount: Int { shards.reduce(0) { $0 + $1.outputs.count } }
  /// Bytes of tensor data in the output.
  public var dataBytes: Int {
    shards.reduce(0) { $0 + $1.outputs.reduce(0) { $0 + $1.item.byteCount } }
  }
  /// Bytes of tensor data that pass through the kernels.
  public var mergedBytes: Int {
    shards.reduce(0) { total, shard in
      shard.outputs.reduce(total) { sum, output in
        switch output.change {
        case .sums, .sumOnRows, .rules: sum + output.item.byteCount
        default: sum
        }
      }
    }
  }
  /// Disk space that the output takes: data, headers and side files.
  public var diskBytes: Int { dataBytes + shards.count * 64 + headerBytes + sideFiles.byteCount }

  private var headerBytes: Int {
    shards.reduce(0) { $0 + $1.outputs.reduce(0) { $0 + $1.item.name.utf8.count + 100 } }
  }

  /// Greatest memory that the merge is predicted to hold at once, beyond the program itself: for each of `workers`, one
  /// block of the weight and the factors of the largest piece.
  public func predictedPeakBytes(workers: Int) -> Int {
    let largest = shards.flatMap(\.outputs).map(TensorPiece.workingBytes).max() ?? 0
    return workers * (largest + MergeWork.blockBytes) + headerBytes
  }
}
