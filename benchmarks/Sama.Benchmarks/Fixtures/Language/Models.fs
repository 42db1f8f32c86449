/// Outputs, losses and gradients of recorded models.
module Sama.Fixtures.Language.Models

open System
open System.IO
open System.Text.Json
open TorchSharp
open Sama
open Sama.Functional
open Sama.Fixtures.Hypergradients.Json
open Sama.Fixtures.Language.Values
open Sama.Fixtures.Row
open Sama.Language

let private tensorOf (json: JsonElement) : Tensor =
    let values = Array.ofSeq (whole json)
    let rows = int64 (json.GetArrayLength())

    if json[0].ValueKind = JsonValueKind.Array then
        torch.tensor(values, dtype = torch.int64).view (rows, -1L)
    else
        torch.tensor (values, dtype = torch.int64)

let private batchOf (case: JsonElement) : TokenBatch =
    let read name = tensorOf (item name case)
    new TokenBatch(read "input_ids", read "attention_mask", read "token_type_ids")

/// logits[c] = Σⱼ cos((c+1)(j+1)) embedding[j], of the model without a head.
let private formulaHead (embedding: Tensor) : Tensor =
    let width = int embedding.shape[1]

    let rows =
        [| for c in 0..2 do
               for j in 0 .. width - 1 -> cos (float ((c + 1) * (j + 1))) |]

    embedding.mm (torch.tensor(rows, dtype = torch.float64).view(3L, -1L).t().to_type embedding.dtype)

let private meanLoss (logits: Tensor) (labels: Tensor) : Tensor =
    torch.nn.functional.cross_entropy (logits, labels)

/// What a case records, computed: name ↦ values.
let private outputs (model: Encoder) (theta: Params) (case: JsonElement) : Map<string, Tensor> =
    use batch = batchOf case
    let labels = tensorOf (item "labels" case)

    match model.Head with
    | Head.Classifier ->
        Map
            [ "last_hidden_state", model.LastHiddenState(theta, batch)
              "logits", model.Logits(theta, batch)
              "losses", model.Losses(theta, batch, labels)
              "loss", model.Loss(theta, batch, labels)
              if model.Config.Family = Family.Bert then
                  "pooler_output", model.Pooled(theta, batch) ]
    | Head.MaskedLanguageModel ->
        let at = labels.reshape(-1L).ne(Scalar.op_Implicit -100L).nonzero().reshape -1L
        let all = model.Logits(theta, batch)
        let rows = all.reshape(-1L, all.shape[2]).index_select (0L, at)
        let wanted = labels.reshape(-1L).index_select (0L, at)

        Map
            [ "losses", model.Losses(theta, batch, labels)
              "loss", model.Loss(theta, batch, labels)
              "label_logits", rows.gather(1L, wanted.unsqueeze 1L).squeeze 1L
              "log_sum_exp", rows.logsumexp 1L
              "first_logits", rows.narrow (1L, 0L, 8L)
              if rows.shape[0] > 0L then
                  let struct (values, ids) = rows.topk (5, 1)
                  "best_logits", values
                  "best_ids", ids
              else
                  "best_logits", rows.narrow (1L, 0L, 5L) ]
    | _ ->
        let logits = formulaHead (model.Embedding(theta, batch))

        Map
            [ "first_components", model.LastHiddenState(theta, batch).narrow (2L, 0L, 8L)
              "pooler_first", model.Pooled(theta, batch).narrow (1L, 0L, 8L)
              "embedding", model.Embedding(theta, batch)
              "logits", logits
              "loss", meanLoss logits labels ]

let private expectedRows family case (what: string) tolerance (found: Map<string, Tensor>) (expected: JsonElement) =
    [ for wanted in expected.EnumerateObject() do
          if wanted.Value.ValueKind <> JsonValueKind.Null then
              match found.TryFind wanted.Name with
              | Some tensor ->
                  closeRow
                      family
                      case
                      $"{what} {wanted.Name}"
                      (tolerance wanted.Name)
                      (numbersOf tensor)
                      (Array.ofSeq (flat wanted.Value))
              | None -> skipped family case $"{what} {wanted.Name}" "this output is not offered" ]

/// 1e-11 against the truth; in float32 twenty times the recorded error of float32.
let private single (case: JsonElement) (name: string) =
    // what is NaN or empty has no error
    20.0 * max 1e-7 (numberOr 0.0 name (item "float32_error" case))

let private layerRows family (model: Encoder) (theta: Params) (case: JsonElement) : Row list =
    use batch = batchOf case

    let all (tensors: Tensor seq) =
        tensors |> Seq.collect numbersOf |> Array.ofSeq

    [ for name, found in
          [ "hidden_states", all (model.HiddenStates(theta, batch))
            "attentions", all (model.Attentions(theta, batch)) ] do
          match tryGet name case with
          | Some expected -> closeRow family (text "name" case) name 1e-11 found (Array.ofSeq (flat expected))
          | None -> () ]

let private gradient (model: Encoder) (case: JsonElement) : Tensor =
    Scope.tensor (fun () ->
        let gradient = torch.zeros_like model.Initial
        let theta = Params.leaves model.Layout model.Initial gradient
        Autodiff.backward (outputs model theta case).["loss"] theta.Views
        gradient)

/// Sum, norm, first entries and the largest of each parameter's gradient; null is outside the graph, hence 0 here.
let private gradientRows family (model: Encoder) (case: JsonElement) : Row list =
    match (item "gradient" case).ValueKind with
    | JsonValueKind.Null -> []
    | _ ->
        use _ = torch.NewDisposeScope()
        let flatGradient = gradient model case

        [ for slice in model.Layout.Slices do
              let own = flatGradient.narrow (0L, slice.Offset, slice.Length)
              let name = $"gradient {slice.Name}"

              match tryGet slice.Name (item "gradient" case) with
              | None -> sameRow family (text "name" case) name false
              | Some recorded when recorded.ValueKind = JsonValueKind.Null ->
                  closeRow family (text "name" case) name 0.0 (numbersOf (own.abs().max ())) [| 0.0 |]
              | Some recorded ->
                  let values = numbersOf own
                  let first = Array.ofSeq (flat (item "first" recorded))
                  let largest = item "largest" recorded

                  let found =
                      [| Array.sum values
                         sqrt (Array.sumBy (fun x -> x * x) values)
                         yield! Array.truncate first.Length values
                         values[int (largest[0].GetInt64())]
                         values |> Array.fold (fun top x -> max top (abs x)) 0.0 |]

                  let expected =
                      [| number "sum" recorded
                         number "norm" recorded
                         yield! first
                         real largest[1]
                         abs (real largest[1]) |]

                  closeRow family (text "name" case) name 1e-11 found expected ]

/// The texts of a case give its ids; those of a masked language model before masking.
let private textRow family (tokenizer: Tokenizer) (case: JsonElement) : Row list =
    match (item "texts" case).ValueKind with
    | JsonValueKind.Null -> []
    | _ ->
        let firsts, seconds =
            [| for t in items "texts" case ->
                   if t.ValueKind = JsonValueKind.Array then
                       t[0].GetString(), t[1].GetString()
                   else
                       t.GetString(), null |]
            |> Array.unzip

        let options = item "options" case

        let left =
            tryGet "padding_side" options
            |> Option.exists (fun side -> side.GetString() = "left")

        use batch =
            tokenizer.EncodeBatch(
                firsts,
                (if isNull seconds[0] then null else seconds),
                integer "max_length" options,
                side = (if left then PaddingSide.Left else PaddingSide.Right)
            )

        let labels = item "labels" case

        let expected =
            let ids = Array.ofSeq (whole (item "input_ids" case))

            if labels[0].ValueKind = JsonValueKind.Array then
                Array.map2 (fun id label -> if label = -100L then id else label) ids (Array.ofSeq (whole labels))
            else
                ids

        [ sameRow family (text "name" case) "ids of the texts" (wholeOf batch.InputIds = expected) ]

let private caseRows family (tokenizer: Tokenizer) (exact: Encoder) (narrow: Encoder) (case: JsonElement) : Row list =
    let name = text "name" case

    guarded family name (fun () ->
        use _ = torch.NewDisposeScope()
        use _ = torch.no_grad ()

        [ yield! textRow family tokenizer case
          for attention in [ Attention.Plain; Attention.Fused ] do
              use exact = exact.WithAttention attention
              use narrow = narrow.WithAttention attention
              let found = outputs exact (exact.At()) case
              yield! expectedRows family name $"{attention} float64" (fun _ -> 1e-11) found (item "float64" case)

              match tryGet "best_ids" case, found.TryFind "best_ids" with
              | Some expected, Some ids ->
                  sameRow family name $"{attention} best_ids" (wholeOf ids = Array.ofSeq (whole expected))
              | _ -> ()

              let found = outputs narrow (narrow.At()) case
              yield! expectedRows family name $"{attention} float32" (single case) found (item "float32" case)
          yield! layerRows family exact (exact.At()) case ])
    @ guarded family name (fun () ->
        [ for attention in [ Attention.Plain; Attention.Fused ] do
              use exact = exact.WithAttention attention
              yield! gradientRows $"{family} {attention}" exact case ])

/// A folder whose config.json has another activation.
let private withActivation (folder: string) (activation: string) (body: string -> Row list) : Row list =
    let copy = Directory.CreateTempSubdirectory "sama"

    try
        for name in [ "config.json"; "model.safetensors" ] do
            File.Copy(Path.Combine(folder, name), Path.Combine(copy.FullName, name))

        let config = Path.Combine(copy.FullName, "config.json")
        let json = Nodes.JsonNode.Parse(File.ReadAllText config)
        json["hidden_act"] <- Nodes.JsonValue.Create activation
        File.SetUnixFileMode(config, UnixFileMode.UserRead ||| UnixFileMode.UserWrite)
        File.WriteAllText(config, json.ToJsonString())
        body copy.FullName
    finally
        copy.Delete true

let private activationRows family (folder: string) (record: JsonElement) : Row list =
    let case =
        items "cases" record |> List.tryFind (fun case -> text "name" case = "batch")

    match tryGet "activations" record, case with
    | Some activations, Some case ->
        [ for recorded in activations.EnumerateObject() do
              if recorded.Name <> "what" then
                  yield!
                      guarded family $"activation {recorded.Name}" (fun () ->
                          withActivation folder recorded.Name (fun copy ->
                              use _ = torch.NewDisposeScope()
                              use model = Encoder.Load(copy, dtype = torch.ScalarType.Float64)
                              let found = outputs model (model.At()) case

                              let shown =
                                  if model.Head = Head.MaskedLanguageModel then
                                      "label_logits"
                                  else
                                      "logits"

                              [ closeRow
                                    family
                                    $"activation {recorded.Name}"
                                    shown
                                    1e-11
                                    (numbersOf found[shown])
                                    (Array.ofSeq (flat recorded.Value)) ])) ]
    | _ -> []

let private parameterRow family (model: Encoder) (record: JsonElement) : Row =
    let expected =
        [ for p in (item "parameters" record).EnumerateObject() -> p.Name, List.ofSeq (whole p.Value) ]

    let found = [ for s in model.Layout.Slices -> s.Name, List.ofArray s.Shape ]
    sameRow family "parameters" "names and shapes" (List.sort found = List.sort expected)

/// Written and read back: the same bits of θ, and the same file where the folder's was float32 under today's names.
let private writtenRows family (folder: string) : Row list =
    let copy = Directory.CreateTempSubdirectory "sama"

    try
        use model = Encoder.Load folder
        model.Save copy.FullName
        use again = Encoder.Load copy.FullName
        use original = SafetensorsFolder.Open(folder, "model")

        let plain =
            original.Entries
            |> Seq.forall (fun e -> e.Dtype = "F32" && not (e.Name.EndsWith "gamma"))

        let bytes (folder: string) =
            File.ReadAllBytes(Path.Combine(folder, "model.safetensors"))

        [ sameRow family "written and read back" "θ" (again.Initial.Equals model.Initial)
          sameRow family "written and read back" "nothing drawn" (again.Report.NewlyInitialised.Count = 0)
          sameRow
              family
              "written and read back"
              "configuration"
              ({ again.Config with
                   Source = null
                   Labels = null } = { model.Config with
                                         Source = null
                                         Labels = null }
               && Seq.forall2 (=) again.Config.Labels model.Config.Labels)
          if plain then
              sameRow family "written and read back" "the file's bytes" (bytes folder = bytes copy.FullName) ]
    finally
        copy.Delete true

let private modelRows family (folder: string) (record: JsonElement) : Row list =
    guarded family "folder" (fun () ->
        use tokenizer = Tokenizer.Load folder
        use exact = Encoder.Load(folder, dtype = torch.ScalarType.Float64)
        use narrow = Encoder.Load folder

        [ parameterRow family exact record
          sameRow
              family
              "parameters"
              "all read"
              (exact.Report.NewlyInitialised.Count = 0 && exact.Report.Unused.Count = 0)
          for case in items "cases" record do
              yield! caseRows family tokenizer exact narrow case
          yield! activationRows family folder record
          yield! writtenRows family folder ])

/// The rows of every recorded model, and of the folder that holds the same weights under old names.
let rows (folder: string) (json: JsonElement) : Row list =
    [ for record in (item "models" json).EnumerateObject() do
          let own = Path.Combine(folder, text "folder" record.Value)
          yield! modelRows $"language/{record.Name}" own record.Value
          let legacy = own + "-legacy"

          if Directory.Exists legacy then
              yield! modelRows $"language/{record.Name}-legacy" legacy record.Value ]
