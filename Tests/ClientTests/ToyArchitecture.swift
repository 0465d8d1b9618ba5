import LanguageModels
import PEFT

/// A decoder with names of its own: one fused projection, two linear layers around a function, learnt positions.
enum ToyArchitecture {
  static let type = "toy_decoder"

  static func register() {
    ModelFamily.register(ModelFamily(prefix: "net", embedding: "net.words", head: "out"), for: type)
    Architecture.register(
      Architecture(type: type) { config, source throws(ModelError) in
        let (width, inner) = (try config.count("width"), try config.count("inner"))
        let (heads, words) = (try config.count("heads"), try config.count("words"))
        let context = try config.count("context")
        var cells: [NetworkModule] = []
        for index in 0..<(try config.count("cells")) {
          let path = "net.cells.\(index)"
          let layout = Attention.Layout(
            projections: ["mix"], output: "back", heads: heads, keyHeads: heads, width: width / heads,
            scale: 1 / Float(width / heads).squareRoot())
          let look: [(name: String, module: NetworkModule)] = [
            ("mix", try source.linear("\(path).look.mix", width, 3 * width, bias: false)),
            ("back", try source.linear("\(path).look.back", width, width, bias: true)),
          ]
          cells.append(
            DecoderLayer(
              "ToyCell",
              DecoderLayer.Layout(
                attention: "look", attentionNorm: "first", feedForwardNorm: "second", feedForwardModule: nil,
                feedForward: FeedForward(up: "up", down: "down", function: "act")),
              [
                ("first", try source.layerNorm("\(path).first", width, epsilon: 1e-5)),
                ("look", Attention("ToyLook", layout, index: index, look)),
                ("second", try source.layerNorm("\(path).second", width, epsilon: 1e-5)),
                ("up", try source.linear("\(path).up", width, inner, bias: true)),
                ("act", try ActivationLayer("act", config, default: "relu")),
                ("down", try source.linear("\(path).down", inner, width, bias: true)),
              ]))
        }
        let embedding = Embedding(try source.matrix("net.words.weight", words, width))
        let net = NetworkModule(
          "ToyNet",
          [
            ("words", embedding), ("places", Embedding(try source.matrix("net.places.weight", context, width))),
            ("cells", ModuleList(cells)),
          ])
        return Architecture.Parts(
          root: NetworkModule(
            "ToyForCausalLM", [("net", net), ("out", try source.linear("out", width, words, bias: false))]),
          embedding: "net.words", positions: "net.places", layers: "net.cells", attentionName: "look", head: "out",
          contextLength: context)
      })
  }
}
