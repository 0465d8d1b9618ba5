internal import TensorFiles

/// What a module's stored tensors say of its weight's shape, for looking at an adapter without its base.
enum StoredShape {
  /// A shape that the tensors fit.
  /// - Parameter isWhole: false if an extent is a guess, because nothing stored has it: then a rule of this shape tells
  ///   whether it changes anything, but not by how much.
  case known(WeightShape, isWhole: Bool)
  /// Nothing is known of the shape, but the change is zero just where the stored values are.
  case linear
  /// The change, and whether there is one, depends on the weight itself.
  case dependsOnWeight
}

extension StoredShape {
  /// - Parameter shared: tensors of the whole adapter.
  init(
    _ type: PeftType, _ part: Adapter.MethodPart, shared: [ExactName: TensorEntry], config: PeftConfig
  ) {
    func shape(_ role: String) -> [Int]? { part.tensors[role]?.shape }
    func extent(_ role: String, _ index: Int) -> Int? {
      guard let found = shape(role), found.indices.contains(index) else { return nil }
      return found[index]
    }
    /// Both extents, or a guess: then the rule says what does not fit.
    func matrix(_ output: Int?, _ input: Int?, guess: Int = 16, kernel: [Int] = [], isEmbedding: Bool = false) -> Self {
      let shape = WeightShape(
        output: output ?? guess, input: input ?? guess, kernel: kernel, isEmbedding: isEmbedding, isTransposed: false)
      return .known(shape, isWhole: output != nil && input != nil)
    }
    switch type.rawValue {
    case "ADALORA": self = matrix(extent("lora_B", 0), extent("lora_A", 1))
    case "BEFT": self = matrix(extent("beft_bias", 1), nil)
    case "BOFT": self = matrix(shape("boft_s")?.max(), checkedProduct(extent("boft_R", 1), extent("boft_R", 2)))
    case "C3A":
      self = matrix(
        checkedProduct(extent("c3a_kernel", 0), extent("c3a_kernel", 2)),
        checkedProduct(extent("c3a_kernel", 1), extent("c3a_kernel", 2)))
    case "DELORA": self = matrix(extent("delora_B", 0), extent("delora_A", 1))
    case "GLORA":
      // Vectors and constants are spread over a matrix whose extents are not stored.
      let (output, input) = (extent("glora_A.Xd", 0), extent("glora_A.Xu", 1))
      self = output == nil || input == nil ? .dependsOnWeight : matrix(output, input)
    case "GRALORA":
      self = matrix(
        checkedProduct(extent("gralora_B", 0), extent("gralora_B", 2)),
        checkedProduct(extent("gralora_A", 0), extent("gralora_A", 1))
      )
    case "HIRA":
      if part.tensors["hira_embedding_A"] != nil || part.tensors["hira_embedding_B"] != nil {
        self = matrix(extent("hira_embedding_B", 0), extent("hira_embedding_A", 1), isEmbedding: true)
      } else {
        let kernel = Array((shape("hira_A") ?? []).dropFirst(2))
        self = matrix(
          extent("hira_B", 0), (shape("hira_A")?.dropFirst()).map { checkedProduct($0) } ?? nil, kernel: kernel)
      }
    case "HRA": self = matrix(nil, extent("hra_u", 0))
    case "IA3":
      guard let factors = shape("ia3_l"), factors.count >= 2 else {
        self = matrix(nil, nil)
        return
      }
      let isFeedForward = (try? MethodModule.isFeedForward(config, part.path)) ?? false
      if factors.count == 2 {
        self = isFeedForward ? matrix(nil, factors[1]) : matrix(factors[0], nil)
      } else {
        let kernel = Array(factors.dropFirst(2))
        self = isFeedForward ? matrix(nil, factors[1], kernel: kernel) : matrix(factors[1], nil, kernel: kernel)
      }
    case "LOHA":
      if let core = shape("hada_t1") ?? shape("hada_t2"), core.count > 2 {
        let kernel = Array(core.dropFirst(2))
        self = matrix(
          extent("hada_w1_a", 1), checkedProduct(extent("hada_w1_b", 1), checkedProduct(kernel)), kernel: kernel)
      } else {
        self = matrix(
          extent("hada_w1_a", 0) ?? extent("hada_w2_a", 0), extent("hada_w1_b", 1) ?? extent("hada_w2_b", 1))
      }
    case "LOKR":
      let kernel = Array((shape("lokr_w2") ?? shape("lokr_t2") ?? []).dropFirst(2))
      let hasCore = part.tensors["lokr_t2"] != nil
      let places = checkedProduct(kernel)
      self = matrix(
        checkedProduct(
          extent("lokr_w1", 0) ?? extent("lokr_w1_a", 0),
          extent("lokr_w2", 0) ?? extent("lokr_w2_a", hasCore ? 1 : 0)),
        checkedProduct(
          extent("lokr_w1", 1) ?? extent("lokr_w1_b", 1), extent("lokr_w2", 1) ?? extent("lokr_w2_b", 1), places),
        kernel: kernel)
    case "MISS", "BONE":
      let name = type.rawValue == "MISS" ? "miss_block" : "bone_block"
      if shape(name)?.count == 3 {
        self = matrix(checkedProduct(extent(name, 0), extent(name, 1)), nil, guess: extent(name, 1) ?? 1)
      } else {
        self = matrix(extent(name, 1), nil, guess: extent(name, 0) ?? 1)
      }
    case "OFT":
      let name = part.tensors["oft_embedding_R.weight"] == nil ? "oft_R.weight" : "oft_embedding_R.weight"
      let size = extent(name, 1).map { Int((1 + Double(1 + 8 * min($0, 1 << 40)).squareRoot()) / 2) }
      self = matrix(nil, checkedProduct(extent(name, 0), size), isEmbedding: name != "oft_R.weight")
    case "PEANUT": self = matrix(extent("peanut_B.weight", 0), nil)
    case "PVERA", "VERA":
      let name = type.rawValue.lowercased()
      self = matrix(extent("\(name)_lambda_b", 0), nil, guess: shared["\(name)_A"]?.shape.last ?? 1)
    case "RANDLORA": self = matrix(extent("randlora_gamma", 1), nil, guess: extent("randlora_gamma", 1) ?? 1)
    case "ROAD":
      let (count, variant) = (extent("road_theta", 0), config.settings["variant"]?.stringValue)
      self = matrix(
        variant == "road_1" ? checkedProduct(count, 2) : variant == "road_4" ? count.map { $0 / 2 } : count, nil)
    case "UNILORA" where part.tensors["unilora_indices_A"] != nil:
      self = matrix(extent("unilora_indices_B", 0), extent("unilora_indices_A", 1))
    case "VBLORA":
      let length = shared["vblora_vector_bank"]?.shape.last
      self = matrix(
        checkedProduct(extent("vblora_logits_B", 0) ?? extent("vblora_logits_B_topk_indices", 0), length),
        checkedProduct(extent("vblora_logits_A", 1) ?? extent("vblora_logits_A_topk_indices", 1), length))
    case "FOURIERFT", "WAVEFT", "SHIRA", "SUPERTUNING": self = .linear
    default: self = .dependsOnWeight
    }
  }
}
