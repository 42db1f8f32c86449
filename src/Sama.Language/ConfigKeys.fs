namespace Sama.Language

open System.Collections.Generic
open System.Text.Json.Nodes

/// Keys of config.json and their values.
module internal ConfigKeys =

    let activations =
        [ "gelu", Activation.Gelu
          "gelu_new", Activation.GeluTanh
          "gelu_pytorch_tanh", Activation.GeluTanh
          "relu", Activation.Relu
          "silu", Activation.Silu
          "swish", Activation.Silu ]

    let families = [ "bert", Family.Bert; "roberta", Family.Roberta ]

    /// The names in the order of their keys; without `id2label` there are `num_labels`, 2 by default.
    let labels path (json: JsonObject) : string[] =
        match Json.tryGet json "id2label" with
        | :? JsonObject as names when names.Count > 0 ->
            [| for i in 0 .. names.Count - 1 ->
                   match names[string i] with
                   | name when not (isNull name) -> name.ToString()
                   | _ -> raise (Json.fail path $"'id2label' has {names.Count} entries and no name for {i}") |]
        | null -> [| for i in 0L .. Json.count path json 1L "num_labels" 2L - 1L -> $"LABEL_{i}" |]
        | other -> raise (Json.fail path $"'id2label' is {other.ToJsonString()}, names by number are expected")

    /// What config.json calls the kind of problem; null if it does not.
    let problem (source: string) : string =
        Json.text "config.json" (JsonNode.Parse(source).AsObject()) "problem_type" null

    /// The json without the kind of problem that the labels before were of: transformers goes by it.
    let ofOneLabel (source: string) : string =
        if isNull source then
            null
        else
            let json = JsonNode.Parse(source).AsObject()
            json.Remove "problem_type" |> ignore
            json.ToJsonString()

    let refuse path (json: JsonObject) : unit =
        for key in [ "is_decoder"; "add_cross_attention" ] do
            if Json.flag path json key false then
                raise (Json.fail path $"'{key}' is true: this is an encoder's reader, not a decoder's")

        match Json.text path json "position_embedding_type" "absolute" with
        | "absolute" -> ()
        | other -> raise (Json.fail path $"'position_embedding_type' is '{other}'; only absolute positions are known")

        if not (Json.flag path json "tie_word_embeddings" true) then
            raise (Json.fail path "'tie_word_embeddings' is false: an output table of its own is not known")

    let oneOf path (json: JsonObject) key missing (known: (string * 'T) list) : 'T =
        let found = Json.text path json key missing

        match known |> List.tryFind (fun (name, _) -> name = found) with
        | Some(_, value) -> value
        | None ->
            let all = known |> List.map fst |> String.concat ", "
            raise (Json.fail path $"'{key}' is '{found}'; known are: {all}")

    let keyOf (known: (string * 'T) list) (value: 'T) =
        known |> List.find (fun (_, own) -> own = value) |> fst

    let set (json: JsonObject) (key: string) (value: JsonNode) = json[key] <- value

    let number (x: float) : JsonNode = JsonValue.Create x
    let whole (x: int64) : JsonNode = JsonValue.Create x
    let text (x: string) : JsonNode = JsonValue.Create x

    let setLabels (json: JsonObject) (labels: IReadOnlyList<string>) =
        json.Remove "num_labels" |> ignore
        set json "id2label" (JsonObject(labels |> Seq.mapi (fun i name -> KeyValuePair(string i, text name))))
        let numbers = JsonObject()
        // a folder may give two classes one name, the last has it then
        labels |> Seq.iteri (fun i name -> set numbers name (whole (int64 i)))
        set json "label2id" numbers
