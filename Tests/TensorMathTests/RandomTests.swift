import TensorFiles
import TensorMath
import TestSupport
import Testing

@Suite struct RandomTests {
  private func integers(_ json: JSONValue?) -> [Int] { json?.elements?.compactMap(\.integerValue) ?? [] }

  private func bits(_ values: [Float]) -> [Int] { values.map { Int($0.bitPattern) } }

  @Test func uniformNumbersAreTorchsBitForBit() throws {
    let cases = try #require(JSONValue(contentsOf: Fixtures.path("random/torch.json")).elements)
    for golden in cases {
      let seed = UInt64(try #require(golden["seed"]?.integerValue))
      var generator = TorchGenerator(seed: seed)
      let uniform = generator.uniform(count: 700, low: -0.25, high: 0.5)
      #expect(bits(uniform) == integers(golden["uniform"]), "seed \(seed)")
      let kaiming = generator.kaimingUniform(count: 80, fanIn: 20)
      #expect(bits(kaiming) == integers(golden["kaiming_uniform_4x20"]), "seed \(seed)")
      var fresh = TorchGenerator(seed: seed)
      let half = fresh.kaimingUniformBF16(count: 80, fanIn: 20)
      #expect(bits(half) == integers(golden["kaiming_uniform_bf16_4x20"]), "seed \(seed)")
    }
    #expect(cases.count == 4)
  }

  @Test func normalNumbersAreTorchsBitForBit() throws {
    for golden in try #require(JSONValue(contentsOf: Fixtures.path("random/torch.json")).elements) {
      let seed = UInt64(try #require(golden["seed"]?.integerValue))
      for member in try #require(golden["normal"]?.members) {
        var generator = TorchGenerator(seed: seed)
        let values = generator.normal(count: Int(member.key) ?? 0, mean: 0, deviation: 0.5)
        #expect(bits(values) == integers(member.value), "seed \(seed), \(member.key) values")
      }
    }
  }

  @Test func permutationsAreTorchsWithoutBeingHeldWhole() throws {
    var long = 0
    for golden in try #require(JSONValue(contentsOf: Fixtures.path("random/torch.json")).elements) {
      let seed = UInt64(try #require(golden["seed"]?.integerValue))
      for member in try #require(golden["randperm"]?.members) {
        #if DEBUG
          // Drawing hundreds of millions of numbers is for the optimised run of these tests.
          if member.key.count > 8 { continue }
        #endif
        var generator = TorchGenerator(seed: seed)
        #expect(generator.permutation(of: Int(member.key) ?? 0, first: 20) == integers(member.value), "\(member.key)")
        long += member.key.count > 8 ? 1 : 0
      }
    }
    #if !DEBUG
      #expect(long == 1)
    #endif
  }

  @Test func numbersAreNumPys() throws {
    let cases = try #require(JSONValue(contentsOf: Fixtures.path("random/numpy.json")).elements)
    for golden in cases {
      let seed = UInt64(try #require(golden["seed"]?.integerValue))
      var generator = NumPyGenerator(seed: seed)
      let raw = (0..<4).map { _ in generator.nextLongBits() }
      #expect(raw.map { [Int($0 >> 32), Int($0 & 0xFFFF_FFFF)] } == golden["raw"]?.elements?.map(integers))
      for member in try #require(golden["choice"]?.members) {
        let numbers = member.key.split(separator: ",").compactMap { Int($0) }
        var generator = NumPyGenerator(seed: seed)
        #expect(generator.choice(numbers[0], size: numbers[1]).map(Int.init) == integers(member.value), "\(member.key)")
      }
      var fresh = NumPyGenerator(seed: seed)
      var data = Array(Int64(0)..<1000)
      fresh.shuffle(&data)
      #expect(data.map(Int.init) == integers(golden["shuffle"]))
    }
    #expect(cases.count == 3)
  }
}
