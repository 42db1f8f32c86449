using System.Reflection;
using System.Runtime.CompilerServices;
using System.Xml.Linq;
using PublicApiGenerator;
using static Sama.Tests.Check;

namespace Sama.Tests;

/// <summary>The public surface: no F# types before C#, everything documented, no change by accident.</summary>
internal static class ApiTests
{
    private static readonly Assembly Facade = typeof(BilevelSolver).Assembly;
    private static readonly Assembly Core = typeof(Level).Assembly;
    private static readonly Assembly Language = typeof(Sama.Language.Encoder).Assembly;
    private const BindingFlags Declared =
        BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;

    /// <summary>What C# sees: all of the facade and the libraries above, and of the core the types in namespace Sama.</summary>
    private static IEnumerable<Type> Seen =>
        Facade.GetExportedTypes().Concat(Language.GetExportedTypes()).Concat(Core.GetExportedTypes().Where(t => t.Namespace == "Sama"));

    private static IEnumerable<Type> Flatten(Type type) => type.HasElementType
        ? Flatten(type.GetElementType()!)
        : type.IsGenericType ? type.GetGenericArguments().SelectMany(Flatten).Prepend(type) : [type];

    private static IEnumerable<Type> Signature(MemberInfo member) => member switch
    {
        MethodInfo m => m.GetParameters().Select(p => p.ParameterType).Append(m.ReturnType),
        ConstructorInfo c => c.GetParameters().Select(p => p.ParameterType),
        PropertyInfo p => p.GetIndexParameters().Select(i => i.ParameterType).Append(p.PropertyType),
        FieldInfo f => [f.FieldType],
        EventInfo e => [e.EventHandlerType!],
        _ => [],
    };

    private static bool Generated(MemberInfo member) =>
        member.IsDefined(typeof(CompilerGeneratedAttribute)) || member.Name.Contains('<') || member.Name.Contains('$');

    /// <summary>Members a reader of the API meets: no accessors, no overrides of <see cref="object"/>, nothing generated.</summary>
    private static IEnumerable<MemberInfo> Documented(Type type) => type.GetMembers(Declared).Where(m =>
        !Generated(m) && m is not Type && m is not ConstructorInfo { DeclaringType.IsAbstract: true }
        && m is not MethodInfo { IsSpecialName: true } && m.Name is not ("ToString" or "Equals" or "GetHashCode" or "CompareTo" or "value__" or "Tags")
        && !(m is ConstructorInfo && IsRecord(type)));

    private static bool IsRecord(Type type) =>
        type.GetCustomAttributesData().Any(a => a.AttributeType.Name == "CompilationMappingAttribute") || type.GetMethod("<Clone>$") is not null;

    private static string Id(Type type) => type.FullName!.Replace('+', '.');

    private static IEnumerable<string> Undocumented(Assembly assembly)
    {
        var file = Path.ChangeExtension(assembly.Location, ".xml");
        var documented = XDocument.Load(file).Descendants("member")
            .Where(m => (m.Element("summary")?.Value ?? "").Trim().Length > 0 || m.Element("inheritdoc") is not null)
            .Select(m => m.Attribute("name")!.Value.Split('(')[0].Split("``")[0]).ToHashSet();
        foreach (var type in assembly.GetExportedTypes().Where(t => !Generated(t) && !(t.IsNested && Generated(t.DeclaringType!)) && t.Name != "Tags"))
        {
            if (!documented.Contains($"T:{Id(type)}")) yield return Id(type);
            foreach (var member in Documented(type))
            {
                var name = $"{Id(type)}.{(member is ConstructorInfo ? "#ctor" : member.Name)}";
                if (!"MPFTE".Any(kind => documented.Contains($"{kind}:{name}"))) yield return name;
            }
        }
    }

    private static Test Complete(Assembly assembly) => Case($"every public member of {assembly.GetName().Name} is documented", () =>
    {
        var missing = Undocumented(assembly).Distinct().ToList();
        That(missing.Count == 0, $"undocumented:\n{string.Join('\n', missing)}");
    });

    /// <summary>The approved file changes on purpose alone: copy the received one over it.</summary>
    private static Test Baseline(Assembly assembly) => Case($"the public API of {assembly.GetName().Name} is the approved one", () =>
    {
        var name = assembly.GetName().Name;
        var received = assembly.GeneratePublicApi(new()
        {
            IncludeAssemblyAttributes = false,
            // F#'s metadata, which the generator cannot print and no caller reads
            ExcludeAttributes = [.. typeof(Microsoft.FSharp.Core.CompilationMappingAttribute).Assembly.GetExportedTypes()
                .Where(t => t.IsAssignableTo(typeof(Attribute))).Select(t => t.FullName!)],
        }).ReplaceLineEndings("\n").TrimEnd() + "\n";
        var approved = Path.Combine(Repository.Root, "tests", "Sama.CSharp.Tests", "approved", $"{name}.txt");
        if (File.Exists(approved) && File.ReadAllText(approved) == received) return;
        var file = Path.Combine(AppContext.BaseDirectory, $"{name}.received.txt");
        File.WriteAllText(file, received);
        That(false, $"the API has changed; if that is meant: cp {file} {approved}");
    });

    public static IEnumerable<Test> All =>
    [
        Case("no F# type in a public signature that C# sees", () =>
        {
            var found =
                from type in Seen
                from member in type.GetMembers(Declared).Append<MemberInfo>(type)
                where !Generated(member)
                from used in member is Type t ? t.GetInterfaces().Append(t.BaseType ?? t) : Signature(member)
                from part in Flatten(used)
                where part.Namespace?.StartsWith("Microsoft.FSharp") == true || part.Namespace == "Sama.Functional"
                select $"{type.FullName}.{member.Name}: {part}";
            var list = found.Distinct().ToList();
            That(list.Count == 0, string.Join('\n', list));
        }),
        Complete(Facade),
        Complete(Core),
        Complete(Language),
        Baseline(Facade),
        Baseline(Core),
        Baseline(Language),
    ];
}
