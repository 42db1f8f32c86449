namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open System.Security.Cryptography
open System.Text

/// What was trained, by name: in a folder, so that an interrupted cleaning or pruning goes on, else in memory. A file appears whole
/// or not at all. Of several processes with one folder one writes, the others keep what they make in memory.
[<Sealed>]
type internal StageStore(folder: string, writes: bool) =
    let held = Dictionary<string, float32[]>()

    let path (name: string) =
        // names are words; what stands between them is not for files
        let plain = name |> String.map (fun c -> if Char.IsLetterOrDigit c then c else '-')
        Path.Combine(folder, plain + ".f32")

    let write (path: string) (bytes: byte[]) =
        let part = path + ".part"
        File.WriteAllBytes(part, bytes)
        File.Move(part, path, true)

    /// InvalidOperationException if the folder is of other data or options.
    member _.Open(identity: string) : unit =
        if not (isNull folder) then
            if writes then
                Directory.CreateDirectory folder |> ignore

            let file = Path.Combine(folder, "identity.txt")

            if File.Exists file then
                if File.ReadAllText file <> identity then
                    raise (
                        InvalidOperationException
                            $"the state in {folder} is of other data or other options: remove the folder, or give those it was begun with"
                    )
            elif writes then
                write file (Encoding.UTF8.GetBytes identity)

    member _.TryLoad(name: string) : float32[] =
        match held.TryGetValue name with
        | true, values -> values
        | _ when isNull folder || not (File.Exists(path name)) -> null
        | _ ->
            let bytes = File.ReadAllBytes(path name)
            let values = Array.zeroCreate<float32> (bytes.Length / 4)
            Buffer.BlockCopy(bytes, 0, values, 0, bytes.Length)
            values

    /// Seconds that it took; 0 if that is not told.
    member _.Seconds(name: string) : float =
        let file = if isNull folder then null else path name + ".seconds"

        if isNull file || not (File.Exists file) then
            0.0
        else
            Double.Parse(File.ReadAllText file, CultureInfo.InvariantCulture)

    member _.Save(name: string, values: float32[], seconds: float) : unit =
        if isNull folder || not writes then
            held[name] <- values
        else
            // before the values, which say that it is done
            File.WriteAllText(path name + ".seconds", seconds.ToString CultureInfo.InvariantCulture)
            let bytes = Array.zeroCreate<byte> (4 * values.Length)
            Buffer.BlockCopy(values, 0, bytes, 0, bytes.Length)
            write (path name) bytes

    /// A digest of numbers, for an identity.
    static member Digest(numbers: int seq) : string =
        use sha = IncrementalHash.CreateHash HashAlgorithmName.SHA256

        for number in numbers do
            sha.AppendData(BitConverter.GetBytes number)

        Convert.ToHexString(sha.GetHashAndReset())[..31]
