import com.launchdarkly.eventsource.ConnectStrategy;
import com.launchdarkly.eventsource.ErrorStrategy;
import com.launchdarkly.eventsource.MessageEvent;
import java.net.URI;
import okhttp3.OkHttpClient;
import okhttp3.Request;
import okhttp3.Response;
import okhttp3.sse.EventSource;
import okhttp3.sse.EventSourceListener;
import okhttp3.sse.EventSources;

/**
 * Client CLIENT URL: the clients in Java.
 *
 * <p>okhttp-sse does not reconnect: it is connected again with the last id.
 */
public class Client {
    private static String lastId = "";

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "okhttp-sse" -> okhttp(new OkHttpClient(), arguments[1]);
            case "launchdarkly" -> launchDarkly(arguments[1]);
        }
    }

    private static void okhttp(OkHttpClient client, String url) {
        Request.Builder request = new Request.Builder().url(url);
        if (!lastId.isEmpty()) {
            request.header("Last-Event-ID", lastId);
        }
        EventSources.createFactory(client).newEventSource(request.build(), new EventSourceListener() {
            @Override
            public void onEvent(EventSource source, String id, String type, String data) {
                lastId = id;
                told(type, data, id);
            }

            @Override
            public void onClosed(EventSource source) {
                okhttp(client, url);
            }

            @Override
            public void onFailure(EventSource source, Throwable error, Response response) {
                okhttp(client, url);
            }
        });
    }

    private static void launchDarkly(String url) throws Exception {
        var connect = ConnectStrategy.http(URI.create(url));
        var source = new com.launchdarkly.eventsource.EventSource.Builder(connect)
            .errorStrategy(ErrorStrategy.alwaysContinue())
            .build();
        source.start();
        while (true) {
            if (source.readAnyEvent() instanceof MessageEvent event) {
                told(event.getEventName(), event.getData(), event.getLastEventId());
            }
        }
    }

    /** The texts of the cases need no escapes, apart from quotes. */
    private static void told(String type, String data, String id) {
        System.out.printf("{\"type\":%s,\"data\":%s,\"id\":%s}%n", text(type), text(data), text(id));
    }

    private static String text(String text) {
        return text == null ? "null" : '"' + text.replace("\"", "\\\"") + '"';
    }
}
